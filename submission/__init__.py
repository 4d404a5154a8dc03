"""`make notebook`: the whole project as one notebook that stands alone, and its HTML page."""

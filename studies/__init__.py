"""Questions that the assignment raises, each answered by a measurement over seeds: one script each."""

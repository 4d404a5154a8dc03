"""What the studies share: runs and their results, training, statistics."""

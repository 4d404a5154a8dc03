"""Shared code of the studies: runs and their results, training, statistics."""

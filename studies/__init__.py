"""Questions that the assignment leaves open, one script each, answered by measurements over several seeds."""

"""Use of trained networks: predictions on new pictures, export, and a page to play with."""

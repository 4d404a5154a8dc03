"""Use trained networks: predictions on new pictures, export, and the playground."""

"""Files, tables and sets of galaxies, and how the images are split."""

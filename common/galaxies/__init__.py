"""Read, download and generate images of galaxies, read tables, and split the images."""

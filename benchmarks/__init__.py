"""What `make bench` runs: this project against the usual way, in one run."""

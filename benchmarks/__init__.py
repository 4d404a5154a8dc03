"""What `make bench` runs: this project against the baseline, in one run."""

"""What `make bench` runs: this project against the baseline, in one run."""

import common  # noqa: F401 (before torch: see there)

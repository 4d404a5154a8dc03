"""Benchmarks of this project against the baseline: `make bench`."""

import common  # noqa: F401 (before torch: see there)

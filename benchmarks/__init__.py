"""Benchmarks of this project against the baseline: `make bench`."""

import common  # noqa: F401 (must be imported before torch: see there)

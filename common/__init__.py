"""Modules that the question scripts share, one subject per file."""

import os

# Threads that wait soon give up their core: beside one busy process an epoch of the CNN takes 1.9 times as long as
# alone, with OpenMP's default 2.7 times (docs/speed.md). GNU's OpenMP spins a thousand times first, some 10 µs, without
# which the FCN is slower. OpenMP reads this when torch is imported. What is already set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

"""Modules shared by the question scripts, one subject per file."""

import os

# Waiting threads give up their core early: next to one busy process, an epoch of the CNN takes 1.9 times as long as
# alone, and 2.7 times with OpenMP's default (docs/speed.md). GNU's OpenMP first spins a thousand times, about
# 10 µs; without this the FCN is slower. OpenMP reads these variables when torch is imported. Existing values are kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

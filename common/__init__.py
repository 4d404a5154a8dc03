"""What two or more of the question scripts share, one subject a file."""

import os

# Threads that wait soon give up their core. Spinning, as is the default, they keep it from other processes, and an
# epoch of the CNN beside one busy process takes over 3.5 times as long as alone: so it takes 2 times (2 cores). GNU's
# OpenMP, that of torch on Linux, spins a thousand times first, some 10 µs: without, an epoch of the FCN alone takes
# 1.15 times as long. OpenMP reads this when torch is imported. What is set already stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

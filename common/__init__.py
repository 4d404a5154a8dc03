"""What two or more of the question scripts share, one subject a file."""

import os

# Threads that wait give up their core. Spinning, as is the default, they keep it from other processes, and an epoch of
# the CNN beside one busy process takes 3.6 times as long as alone: so it takes 1.8 times, and alone 5% longer (2
# cores). OpenMP reads this when torch is imported. What is set already stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

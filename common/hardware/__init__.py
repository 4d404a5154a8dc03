"""Hardware: devices, precision, CUDA graphs, multiprocessing."""

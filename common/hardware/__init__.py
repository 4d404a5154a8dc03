"""What makes the training fast: device, precision, CUDA graphs, several processes."""

"""Where tensors live: the one place that knows about CPUs and GPUs."""

import torch


def choose_device(name):
    """Return the torch.device called `name`: auto, cpu, cuda or mps.

    `auto` takes the first of CUDA, MPS and the CPU that this machine has.
    Raises ValueError when the device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds no such device here; try --device auto")
    return torch.device(name)

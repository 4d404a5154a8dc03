"""Where and in what precision the networks compute: the one place that knows about CPUs and GPUs."""

import ctypes
import os
import sys

import torch
from torch import nn

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def choose_device(name, deterministic=False):
    """Return the torch.device called `name`: auto, cpu, cuda or mps.

    `auto` takes the first of CUDA, MPS and the CPU that this machine has. `deterministic` asks torch for
    algorithms that give the same bits at every run; where it has none, it warns.
    Raises ValueError when the device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds no such device here; try --device auto")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it, read at its start
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False  # its ten-bit products would part a GPU's losses from a CPU's
    if name == "cpu" and sys.platform == "linux":
        keep_freed_memory()
    return torch.device(name)


def memory_format(device):
    """Return the memory format of images and networks on a device.

    channels_last is the order of the HDF5 file and the fastest one. On MPS the backward pass of max-pooling aborts
    in it (pytorch issue 175190), and that of a convolution is 30 times slower (193349).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def keep_freed_memory():
    """Tell glibc to keep what is freed, up to 256 MB, instead of handing it back to the system at once.

    Each batch takes and frees several MB, which would be mapped, zeroed and unmapped again at every step:
    without that an epoch takes some 10 % less (2 cores). Where the C library is another, nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)


def make_adam(model, lr, device):
    """Return Adam over the parameters of `model` that require a gradient.

    Fused: one pass over parameters, gradients and moments; an epoch of the FCN takes 0.1 s less (2 cores).
    On CUDA its step count lives on the device, so that a step can be captured in a graph.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=lr, fused=True, capturable=device.type == "cuda")


class Autocast(nn.Module):
    """A network that computes in a lower precision where that is safe, and gives float32 logits."""

    def __init__(self, model, device, dtype):
        super().__init__()
        self.model = model
        self.device_type = device.type
        self.dtype = dtype

    def forward(self, images):
        """Return the logits, float32 (n, classes)."""
        # Without the cache of lowered weights: it would outlive a captured graph's steps.
        with torch.autocast(self.device_type, self.dtype, cache_enabled=False):
            logits = self.model(images)
        return logits.float()


def in_precision(model, device, precision):
    """Return `model` to be trained in `precision`, one of PRECISIONS: itself, or wrapped in Autocast.

    Raises ValueError for bf16 on MPS (pytorch issue 192212).
    The weights stay float32. On a CPU with bfloat16 instructions a CNN epoch takes 1.3 s in place of 1.9 s.
    """
    if device.type == "mps" and precision != "float32":
        raise ValueError(f"--precision {precision}: on MPS networks train in float32 only")
    return model if precision == "float32" else Autocast(model, device, PRECISIONS[precision])

"""Which device computes, and how a training step runs on it."""

import ctypes
import os
import sys
from functools import partial

from common.hardware.gpu import CapturedStep

import torch

TEST_BATCH = 2048  # images, on a GPU


def choose_device(name, deterministic=False):
    """Return the torch.device called `name`: auto, cpu, cuda or mps.

    `auto` takes the first of CUDA, MPS and the CPU on which this installation of torch computes. `deterministic` asks
    torch for algorithms that give the same bits in every run; where it has none, it warns.
    Raises ValueError when the device asked for does not exist or does not compute.
    """
    reasons = {}
    names = ("cuda", "mps", "cpu") if name == "auto" else (name,)
    device = next((each for each in names if not reasons.setdefault(each, why_unusable(each))), None)
    if device is None:
        raise ValueError(f"--device {name}: {reasons[name]}; try --device auto")
    if reasons.get("cuda") and torch.cuda.is_available():
        print(f"Not using the GPU: {reasons['cuda']}.", file=sys.stderr)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    # TF32's ten-bit products would move a GPU's losses away from a CPU's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device == "cpu" and sys.platform == "linux":
        keep_freed_memory()
    return torch.device(device)


def why_unusable(name):
    """Return why the device called `name` cannot compute here; an empty text if it can."""
    if name == "cpu":
        return ""
    backend = torch.cuda if name == "cuda" else torch.backends.mps
    if not backend.is_available():
        return f"torch {torch.__version__} finds no such device here"
    try:
        (torch.ones(1, device=name) + 1).item()
    except RuntimeError as error:  # of a GPU that is older or newer than what this torch was built for
        return f"torch {torch.__version__} cannot compute on it ({str(error).splitlines()[0]})"
    return ""


def keep_freed_memory():
    """Tell glibc to keep up to 256 MB of freed memory instead of returning it to the system at once.

    Each batch allocates and frees several MB, which would be mapped, zeroed and unmapped again at every step. Without
    it an epoch of the FCN takes 1.09 times as long, of the CNN 1.01 times (EPYC), and on a busy machine the CNN's takes
    0.3 to 0.5 s more of the system's time. With another C library nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)


def adam_options(device):
    """Return the keyword arguments with which torch.optim.Adam is fastest on `device`.

    Fused: one pass over parameters, gradients and moments. Capturable: on CUDA the step count lives on the device, so
    that a step can be captured in a graph.
    """
    return {"fused": True, "capturable": device.type == "cuda"}


def bind_step(train_step, model, criterion, optimizer):
    """Return `train_step` as a function of images and labels alone: on a GPU one that replays a CUDA graph."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    return (CapturedStep if on_gpu else partial)(train_step, model, criterion, optimizer)

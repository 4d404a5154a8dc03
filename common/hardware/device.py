"""Choose the device, and bind training steps to it."""

import ctypes
import os
import sys
from functools import partial

from common.hardware.gpu import CapturedStep

import torch

TEST_BATCH = 2048  # images, on a GPU


def choose_device(name, deterministic=False):
    """Return the torch.device called `name`: auto, cpu, cuda or mps.

    auto: the first of CUDA, MPS and CPU that this installation of torch can use. deterministic: use algorithms that
    give the same bits in every run; torch warns if there are none. Raises ValueError if the device does not exist or
    cannot be used.
    """
    names = ("cuda", "mps", "cpu") if name == "auto" else (name,)
    reasons = {each: why_unusable(each) for each in names}
    usable = [each for each in names if not reasons[each]]
    if not usable:
        raise ValueError(f"--device {name}: {reasons[name]}; try --device auto")
    if reasons.get("cuda") and torch.cuda.is_available():
        print(f"Not using the GPU: {reasons['cuda']}.", file=sys.stderr)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    # With TF32, whose products have ten bits, the losses on a GPU would differ from a CPU's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if usable[0] == "cpu" and sys.platform == "linux":
        keep_freed_memory()
    return torch.device(usable[0])


def why_unusable(name):
    """Return why the device called `name` cannot be used here; an empty string if it can."""
    if name == "cpu":
        return ""
    backend = torch.cuda if name == "cuda" else torch.backends.mps
    if not backend.is_available():
        return f"torch {torch.__version__} finds no such device here"
    try:
        (torch.ones(1, device=name) + 1).item()
    except RuntimeError as error:  # this torch was built for older or newer GPUs
        return f"torch {torch.__version__} cannot compute on it ({str(error).splitlines()[0]})"
    return ""


def keep_freed_memory():
    """Make glibc keep up to 256 MB of freed memory instead of returning it to the system at once.

    Each batch allocates and frees several MB, which would be mapped, zeroed and unmapped at every step. Without this,
    an epoch takes 1.09 times as long for the FCN, 1.01 times for the CNN (EPYC), and on a busy machine the CNN's epoch
    takes 0.3 to 0.5 s more system time. It has no effect with other C libraries.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)


def adam_options(device):
    """Return the keyword arguments with which torch.optim.Adam is fastest on `device`.

    fused: one pass over parameters, gradients and moments. capturable: the step count is on the GPU, so that a CUDA
    graph can capture a step.
    """
    return {"fused": True, "capturable": device.type == "cuda"}


def bind_step(train_step, model, criterion, optimizer):
    """Return `train_step` as a function of images and labels only. On a GPU it replays a CUDA graph."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    return (CapturedStep if on_gpu else partial)(train_step, model, criterion, optimizer)

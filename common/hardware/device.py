"""Which device computes, in what precision, and how an epoch is run on it."""

import ctypes
import os
import sys

from common.hardware import distributed
from common.hardware.gpu import GraphedEpoch, ResidentLoader
from common.hardware.layers import Autocast, reorder_layers

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
    if name == "mps" and distributed.is_launched():
        return "processes of torchrun cannot exchange gradients on MPS"
    try:
        (torch.ones(1, device=name) + 1).item()
    except RuntimeError as error:  # of a GPU that is older or newer than what this torch was built for
        return f"torch {torch.__version__} cannot compute on it ({str(error).splitlines()[0]})"
    return ""


def keep_freed_memory():
    """Tell glibc to keep up to 256 MB of freed memory instead of returning it to the system at once.

    Each batch allocates and frees several MB, which would be mapped, zeroed and unmapped again at every step:
    an epoch takes some 10% less time (2 cores). With another C library nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)


def adam_options(device):
    """Return the keyword arguments with which torch.optim.Adam is fastest on `device`.

    Fused: one pass over parameters, gradients and moments; an epoch of the FCN takes 0.1 s less (2 cores).
    Capturable: on CUDA the step count lives on the device, so that a step can be captured in a graph.
    """
    return {"fused": True, "capturable": device.type == "cuda"}


def place(task, device):
    """Return a Task whose loaders give batches on `device`: a GPU gets the images once, and crops them itself.

    On a GPU the test batches are larger, TEST_BATCH: the last bits of a prediction differ from those of another size.
    """
    if device.type == "cpu":
        return task
    test_loader = ResidentLoader(task.test_loader, device, TEST_BATCH)
    return task._replace(train_loader=ResidentLoader(task.train_loader, device), test_loader=test_loader)


def accelerate(model, train_step, train_epoch, precision="float32"):
    """Return `model` and `train_epoch` in the form in which they run fastest on the model's device.

    The network has the parameters of `model` itself, and the function takes what `train_epoch` takes. Under
    torchrun every process computes its shard of each batch; on one GPU `train_step` is captured as a CUDA
    graph; elsewhere the function is `train_epoch`. precision: float32 or bf16; the weights stay float32.
    With bf16 on a CPU that has bfloat16 instructions, a CNN epoch takes 1.3 s instead of 1.9 s. Raises ValueError for
    bf16 on MPS (pytorch issue 192212).
    """
    device = next(model.parameters()).device
    if device.type == "mps" and precision != "float32":
        raise ValueError(f"--precision {precision}: on MPS networks train in float32 only")
    network = reorder_layers(model)
    if precision != "float32":
        network = Autocast(network, device.type)
    if torch.distributed.is_initialized():
        return distributed.Sharded(network), train_epoch
    if device.type == "cuda":
        return network, GraphedEpoch(train_step)
    return network, train_epoch

"""Several processes that train one network: `torchrun --nproc-per-node=2 q3_cnn.py`.

Every process loads the same batches and computes its shard of each, so that together they take the very
steps of one process. Only rank 0 prints and writes.
"""

import os
import sys
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def is_launched():
    """Return whether this process was started by torchrun."""
    return "RANK" in os.environ


@contextmanager
def process_group(device):
    """Join torchrun's process group, if the script was started by it; give the device of this process.

    Raises ValueError for more processes than GPUs, and ConnectionError when another process has died.
    """
    if not is_launched():
        yield device
        return
    if device.type == "cuda":
        gpus, rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if rank >= gpus:
            processes = os.environ.get("LOCAL_WORLD_SIZE", rank + 1)
            raise ValueError(
                f"{processes} processes but {gpus} GPU(s) here: lower --nproc-per-node, or use --device cpu"
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    uses_nccl = device.type == "cuda" and distributed.is_nccl_available()  # Windows has none
    distributed.init_process_group("nccl" if uses_nccl else "gloo")
    if distributed.get_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
    try:
        yield device
    except RuntimeError as error:
        words = str(error).lower()
        if not isinstance(error, distributed.DistError) and "gloo" not in words and "connection" not in words:
            raise
        raise ConnectionError(f"rank {distributed.get_rank()}: another process died; aborting ({error})") from error
    # After success only: under nccl it would wait for processes that still wait for this one.
    distributed.destroy_process_group()


class Sharded(nn.Module):
    """A network whose processes each compute every n-th image of a batch, and all of which get all logits.

    So a loss of any form, over all logits of the batch, has in each process the value it has in one process,
    and its gradient reaches the rows that this process has computed. DistributedDataParallel adds up the
    gradients of all rows. Raises ValueError for a batch that is smaller than the number of processes.
    """

    def __init__(self, model):
        super().__init__()
        self.model = DistributedDataParallel(model)
        self.model.register_comm_hook(None, sum_gradients)
        self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()

    def forward(self, images):
        """Return the logits of all images, (n, classes); only those of the shard have a gradient."""
        if len(images) < self.processes:
            raise ValueError(
                f"a batch of {len(images)} cannot be shared by {self.processes} processes: change --batch-size"
            )
        own = self.model(images[self.rank :: self.processes])
        # Gathered tensors must have one size: the shards are padded to that of rank 0, the largest.
        padded = own.new_zeros(-(-len(images) // self.processes), own.shape[1])
        padded[: len(own)] = own.detach()
        gathered = torch.stack([torch.empty_like(padded) for _ in range(self.processes)])
        distributed.all_gather(list(gathered), padded)
        logits = gathered.transpose(0, 1).flatten(0, 1)[: len(images)].contiguous()
        logits[self.rank :: self.processes] = own
        return logits


def sum_gradients(_, bucket):
    """Communication hook of DistributedDataParallel: the sum of all processes' gradients, not their mean."""
    return distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])

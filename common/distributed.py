"""Several processes that train one network: `torchrun --nproc-per-node=2 q3_cnn.py`.

Every process draws the same batches and takes its share of each, so that together they take the very
steps that one process would. Only the first of them, rank 0, prints and writes.
"""

import os
import sys
from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(device):
    """Join the other processes of torchrun, if it was used; give the device of this one.

    Raises ConnectionError when one of the others has died, which ends the run.
    """
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
    try:
        yield device
    except distributed.DistError as error:
        raise ConnectionError(lost(error)) from error
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and "connection" not in str(error).lower():
            raise
        raise ConnectionError(lost(error)) from error
    finally:
        distributed.destroy_process_group()


def lost(error):
    return f"rank {distributed.get_rank()} lost the others, one of them has died: the run is over ({error})"


def is_first():
    """Say whether this process is the one to print and write: rank 0, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


class Shares:
    """This process's part of each batch of a loader: images and labels rank, rank + processes, ...

    `weight` is the share of the last batch's images that was this process's.
    """

    def __init__(self, loader):
        self.loader = loader
        self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()
        self.weight = 1.0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for images, labels in self.loader:
            if len(labels) < self.processes:
                raise ValueError(f"a batch of {len(labels)} cannot be shared by {self.processes}: change --batch-size")
            share = slice(self.rank, None, self.processes)
            self.weight = len(labels[share]) / len(labels)
            yield images[share], labels[share]


def weighted_sum(shares, bucket):
    """Communication hook: the gradient of the whole batch's mean loss, out of those of the shares' means."""
    gradient = bucket.buffer() * shares.weight
    return distributed.all_reduce(gradient, async_op=True).get_future().then(lambda future: future.value()[0])


def shared(network, train_epoch):
    """Return `network` to be trained by all processes, and `train_epoch` made to run on shares of its loader."""
    network = DistributedDataParallel(network)
    shares = Shares(None)
    network.register_comm_hook(shares, weighted_sum)

    def train_shared_epoch(network, loader, optimizer, device, progress=iter):
        shares.loader, count = loader, 0

        def counted(loader):
            nonlocal count
            for images, labels in progress(loader):
                count += len(labels)
                yield images, labels

        loss, accuracy = train_epoch(network, shares, optimizer, device, counted)
        sums = torch.tensor([loss * count, accuracy * count, count], device=device)
        distributed.all_reduce(sums)
        loss_sum, correct, count = sums.tolist()
        return loss_sum / count, correct / count

    return network, train_shared_epoch

"""Training on a GPU: images that stay on the card, and a step captured as a CUDA graph."""

import copy

from common.hardware.layers import memory_format

import numpy as np
import torch
from torch import nn


class ResidentLoader:
    """The batches of a DataLoader of MyDataset, cropped on the device to which its uint8 images are copied once.

    Order, crops and transforms are those of the DataLoader. Their random numbers are generated before an
    epoch and sent together (0.4 MB for 18,000 images); nothing else crosses the bus. batch_size: of the batches, unless
    it is the DataLoader's; the crops are those of the DataLoader's batches all the same.
    """

    def __init__(self, loader, device, batch_size=None):
        self.sampler, self.dataset = loader.sampler, loader.dataset
        self.sampled_batch_size = loader.batch_size
        self.batch_size = batch_size or loader.batch_size
        pixels = self.dataset.data.permute(0, 2, 3, 1).contiguous()
        try:
            self.images, self.labels = pixels.to(device), self.dataset.target.to(device)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the images, {pixels.nbytes / 1e9:,.1f} GB, do not fit on the GPU: use --device cpu"
            ) from None
        self.window = torch.arange(self.dataset.crop.size, device=device)
        # Copies: the two loaders of a task share their transforms, and a DataLoader needs its own on the CPU.
        modules = (copy.deepcopy(each) for each in self.dataset.after_crop)
        self.after_crop = [each.to(device) if isinstance(each, nn.Module) else each for each in modules]
        self.sampled = None, None  # an epoch that was sampled ahead: its seeds, and what `sample_epoch` returns

    def __len__(self):
        return -(-len(self.sampler) // self.batch_size)

    def sample_epoch(self):
        """Generate the random numbers of the epoch that was seeded; return a tensor on the device for each kind.

        They are the indices of the images, int64 (n,), and the parameters of each transform, n rows, in order.
        """
        seeds, columns = self.sampled
        if seeds is None or seeds != self.dataset.seeds:
            order = torch.from_numpy(np.fromiter(self.sampler, np.int64, len(self.sampler)))
            batches = map(self.dataset.sample_params, map(len, order.split(self.sampled_batch_size)))
            columns = [order, *map(torch.cat, zip(*batches, strict=True))]
            columns = [column.to(self.images.device) for column in columns]
        self.sampled = None, None
        return columns

    def sample_ahead(self):
        """Generate the random numbers of the next epoch, while the device still computes this one."""
        if self.dataset.seeds is not None:
            seed, epoch = self.dataset.seeds
            self.dataset.seed_epoch(self.sampler, seed, epoch + 1)
            columns = self.sample_epoch()
            self.sampled = self.dataset.seeds, columns

    def gather(self, index, top, left, *params):
        """Return transformed crops, float32 (n, 3, size, size), and labels, int64 (n,), from rows of `sample_epoch`."""
        rows = top[:, None, None] + self.window[:, None]
        columns = left[:, None, None] + self.window
        crops = self.images[index[:, None, None], rows, columns].float().permute(0, 3, 1, 2)
        crops = self.dataset.transform_batch(crops, self.after_crop, params)
        return crops.contiguous(memory_format=memory_format(crops.device)), self.labels[index]

    def __iter__(self):
        columns = [column.split(self.batch_size) for column in self.sample_epoch()]
        return (self.gather(*batch) for batch in zip(*columns, strict=True))


def capture_cuda_graph(step):
    """Return a function that does what `step` does in one launch: the replay of a captured CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    # The outer context restores the stream where the capture fails, which the inner one does not.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        step()
    return graph.replay


class GraphedEpoch:
    """`train_epoch` for a ResidentLoader: the same steps, captured once and then replayed.

    The crops of BLOCK steps are gathered at once, 0.11 GB of them: step by step that took a sixth of the time of the
    FCN (H200). A CUDA graph repeats the same kernels on the same addresses, so the crops go to one place, and a counter
    on the device says which batch of them is next. Three kinds of steps are taken one kernel at a time: the first
    WARM_UP, which capturing requires, the last of an epoch, whose batch is smaller, and all of them where the capture
    fails.
    """

    WARM_UP, BLOCK = 3, 64

    def __init__(self, train_step, capture=capture_cuda_graph):
        self.train_step = train_step
        self.capture = capture
        self.replay = self.rates = self.block = None
        self.steps_taken = 0

    def __call__(self, model, criterion, optimizer, loader, progress=iter):
        """Take a step for each batch; return what `train_epoch` returns."""
        model.train()
        rates = [group["lr"] for group in optimizer.param_groups]
        if rates != self.rates:  # a number in the captured kernels, which a scheduler has changed
            self.replay, self.rates = None, rates
        size, step_losses, correct = loader.batch_size, [], 0
        blocks = zip(*(column.split(self.BLOCK * size) for column in loader.sample_epoch()), strict=True)
        steps = iter(progress(range(len(loader))))
        for rows in blocks:
            self.fill(*loader.gather(*rows), size)
            count = len(rows[0])
            for start in range(0, count, size):
                next(steps)
                self.take_step(model, criterion, optimizer, loader, slice(start, min(start + size, count)))
            step_losses.append(self.losses[: -(-count // size)].clone())
            correct = correct + self.correct
        next(steps, None)
        loader.sample_ahead()
        return torch.cat(step_losses), correct, len(loader.labels)

    def fill(self, images, labels, size):
        """Copy the images and labels of a block to the place that the graph reads, and reset the counter."""
        if self.block is None:
            room, device = self.BLOCK * size, labels.device
            shape = (room, *images.shape[1:])
            self.block = (
                torch.empty(shape, device=device).contiguous(memory_format=memory_format(device)),
                torch.empty(room, dtype=labels.dtype, device=device),
            )
            self.losses, self.places = torch.zeros(self.BLOCK, device=device), torch.arange(self.BLOCK, device=device)
            self.place = torch.zeros(1, dtype=torch.long, device=device)  # of the next batch
            self.correct = torch.zeros(1, dtype=torch.long, device=device)
            self.window = torch.arange(size, device=device)
        for place, values in zip(self.block, (images, labels), strict=True):
            place[: len(values)] = values
        self.place.zero_()
        self.correct.zero_()

    def take_step(self, model, criterion, optimizer, loader, rows):
        """Take the step of a batch, the rows of the block, by the graph if it can."""
        whole = rows.stop - rows.start == len(self.window)

        def step(rows):
            images, labels = (each[rows] for each in self.block)
            loss, correct = self.train_step(model, criterion, optimizer, images, labels)
            torch.where(self.places == self.place, loss * len(labels), self.losses, out=self.losses)
            self.correct += correct
            self.place += 1

        if whole and self.capture and self.steps_taken >= self.WARM_UP:
            if self.replay is None:
                self.replay = self.try_to_capture(lambda: step(self.place * len(self.window) + self.window), optimizer)
            self.replay()
        else:
            step(rows)
        self.steps_taken += 1

    def try_to_capture(self, step, optimizer):
        """Return a replay of `step`, or `step` itself where it cannot be captured."""
        optimizer.zero_grad()  # the graph must allocate the gradients itself
        try:
            return self.capture(step)
        except RuntimeError as error:
            print(f"No CUDA graph, so each kernel is launched on its own: {str(error).splitlines()[0]}")
            self.capture = None
            return step

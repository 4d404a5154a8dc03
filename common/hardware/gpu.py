"""Training on a GPU: images that stay on the card, and a step captured as a CUDA graph."""

import copy

from common.hardware.layers import memory_format

import torch
from torch import nn


class ResidentLoader:
    """The batches of a DataLoader of MyDataset, cropped on the device to which its uint8 images are copied once.

    Order, crops and transforms are those of the DataLoader. Their random numbers are generated before an
    epoch and sent together (0.4 MB for 18,000 images); nothing else crosses the bus.
    """

    def __init__(self, loader, device):
        self.loader = loader
        self.sampler, self.dataset = loader.sampler, loader.dataset
        self.images = self.dataset.data.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = self.dataset.target.to(device)
        self.window = torch.arange(self.dataset.crop.size, device=device)
        # Copies: the two loaders of a task share their transforms, and a DataLoader needs its own on the CPU.
        modules = (copy.deepcopy(each) for each in self.dataset.after_crop)
        self.after_crop = [each.to(device) if isinstance(each, nn.Module) else each for each in modules]

    def __len__(self):
        return len(self.loader)

    def sample_epoch(self):
        """Generate the random numbers of an epoch; return for each batch a tuple of tensors on the device.

        They are the indices of the images, int64 (batch,), and the parameters of each transform.
        """
        size = self.loader.batch_size
        order = torch.tensor(list(self.sampler)).split(size)
        batches = [(indices, *self.dataset.sample_params(len(indices))) for indices in order]
        columns = [torch.cat(column).to(self.images.device).split(size) for column in zip(*batches, strict=True)]
        return list(zip(*columns, strict=True))

    def gather_batch(self, index, top, left, *params):
        """Return one batch of `sample_epoch`: transformed crops, float32 (n, 3, size, size), and labels, int64 (n,)."""
        rows = top[:, None, None] + self.window[:, None]
        columns = left[:, None, None] + self.window
        crops = self.images[index[:, None, None], rows, columns].float().permute(0, 3, 1, 2)
        crops = self.dataset.transform_batch(crops, self.after_crop, params)
        return crops.contiguous(memory_format=memory_format(crops.device)), self.labels[index]

    def __iter__(self):
        return (self.gather_batch(*batch) for batch in self.sample_epoch())


def capture_cuda_graph(step):
    """Return a function that does what `step` does in one launch: the replay of a captured CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class GraphedEpoch:
    """`train_epoch` for a ResidentLoader: the same steps, captured once and then replayed.

    A CUDA graph repeats the same kernels on the same addresses, so the tensors of each batch are copied to one
    place first. Three kinds of steps are taken one kernel at a time: the first WARM_UP, which capturing
    requires, the last of an epoch, whose batch is smaller, and all of them where the capture fails.
    """

    WARM_UP = 3

    def __init__(self, train_step, capture=capture_cuda_graph):
        self.train_step = train_step
        self.capture = capture
        self.replay = None
        self.steps_taken = 0

    def __call__(self, model, criterion, optimizer, loader, progress=iter):
        """Take a step for each batch; return what `train_epoch` returns."""
        model.train()
        batches = loader.sample_epoch()
        if self.steps_taken == 0:
            self.losses = torch.zeros(len(batches), device=loader.labels.device)
            self.counts = torch.zeros(2, dtype=torch.long, device=loader.labels.device)  # steps, correct predictions
            self.batch = [tensor.clone() for tensor in batches[0]]
        self.counts.zero_()

        def step(batch):
            images, labels = loader.gather_batch(*batch)
            loss, correct = self.train_step(model, criterion, optimizer, images, labels)
            self.losses[self.counts[:1]] = loss * len(labels)
            self.counts += torch.stack((torch.ones_like(correct), correct))

        for batch in progress(batches):
            if self.capture and self.steps_taken >= self.WARM_UP and len(batch[0]) == len(self.batch[0]):
                for place, tensor in zip(self.batch, batch, strict=True):
                    place.copy_(tensor)
                if self.replay is None:
                    self.replay = self.try_to_capture(lambda: step(self.batch), optimizer)
                self.replay()
            else:
                step(batch)
            self.steps_taken += 1
        return self.losses, self.counts[1], len(loader.labels)

    def try_to_capture(self, step, optimizer):
        """Return a replay of `step`, or `step` itself where it cannot be captured."""
        optimizer.zero_grad()  # the graph must allocate the gradients itself
        try:
            return self.capture(step)
        except RuntimeError as error:
            print(f"No CUDA graph, so each kernel is launched on its own: {str(error).splitlines()[0]}")
            self.capture = None
            return step

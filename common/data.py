"""From uint8 images to normalised random crops: the dataset, its transforms and the loaders."""

from pathlib import Path
from typing import NamedTuple

from common.galaxies.facts import SUBSETS
from common.galaxies.split import task_names
from common.storage.artifacts import load_tensors

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, WeightedRandomSampler

EVALUATION_SEED = 467  # of the crops behind every test metric, whatever --seed says


class RandomCrop:
    """Crop each image to `size` x `size` pixels, at a position of its own.

    (torchvision's RandomCrop takes one position for all images of a batch.) Positions are uniform over all
    windows within the image. The crops are float32, in channels_last order.
    """

    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        """Crop one image: uint8 (3, h, w) to float32 (3, size, size), by torch's global random numbers."""
        return self.crop_batch(image[None], np.zeros(1, dtype=int), *self.get_params(*image.shape[1:], 1))[0]

    def get_params(self, height, width, count, generator=None):
        """Generate the top and left corners, int64 (count,) each, of windows in images of height x width."""
        top = torch.randint(height - self.size + 1, (count,), generator=generator)
        left = torch.randint(width - self.size + 1, (count,), generator=generator)
        return top, left

    def crop_batch(self, images, indices, top, left):
        """Crop images[indices], int (m,), at the given corners: uint8 (n, 3, h, w) to float32 (m, 3, size, size)."""
        # crops[i] = images[indices[i], :, top[i] : top[i] + size, left[i] : left[i] + size], in one gather. In bytes
        # (n, h, w, 3) a window is `size` runs of 3 * size bytes: this view has the runs of all windows of all images,
        # and indexing it copies only those wanted.
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        n, height, width, channels = pixels.shape
        image_step, row_step, pixel_step, _ = pixels.strides
        windows = np.ndarray(
            shape=(n, height - self.size + 1, width - self.size + 1, self.size),
            dtype=np.dtype((np.void, channels * self.size)),
            buffer=pixels,
            strides=(image_step, row_step, pixel_step, row_step),
        )
        crops = torch.from_numpy(windows[indices, top.numpy(), left.numpy()].view(np.uint8)).float()
        return crops.view(-1, self.size, self.size, channels).permute(0, 3, 1, 2)


class Normalize(nn.Module):
    """Subtract `mean` and divide by `std`, float32 (3,) each, channel by channel: torchvision's Normalize, faster.

    18,000 crops take 0.01 s instead of 0.085 s (2 cores): as the colours of a pixel are adjacent in memory,
    (x - mean) / std is one pass of x * scale + shift over whole rows. In channels_last order that is done in place.
    """

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)
        self.row = None  # scale and shift of a row of pixels, once its length is known

    def forward(self, crops):
        """Normalise crops, float32 (..., 3, size, size), and return them."""
        rows = crops.movedim(-3, -1).flatten(-2)  # a view, unless the colours are apart in memory
        size = crops.shape[-1]
        if self.row is None or self.row.shape[1] != 3 * size or self.row.device != self.scale.device:
            self.row = torch.stack((self.scale.repeat(size), self.shift.repeat(size)))
        torch.addcmul(self.row[1], rows, self.row[0], out=rows)
        return rows.unflatten(-1, (size, 3)).movedim(-1, -3)


class PerImage(nn.Module):
    """Apply a transform to each image of a batch by itself, with random numbers that the image's own seed decides.

    It makes torchvision's random transforms, which would treat all images of a batch alike, usable on batches. For
    speed, write a transform that has `sample_params` instead; see `MyDataset`.
    """

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def sample_params(self, count, generator):
        """Generate the images' seeds, int64 (count,)."""
        return torch.randint(2**63 - 1, (count,), generator=generator)

    def forward(self, images, seeds):
        """Transform images, float32 (n, 3, size, size), one by one; torch's global random state is left alone."""
        transformed, on_cpu = [], images.device.type == "cpu"
        # torch.manual_seed seeds all devices, which takes 0.7 ms an image: here only those that the transform uses.
        with torch.random.fork_rng(
            [] if on_cpu else [images.device], device_type="cuda" if on_cpu else images.device.type
        ):
            for image, seed in zip(images, seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                if not on_cpu:
                    getattr(torch, images.device.type).manual_seed(seed)
                transformed.append(self.transform(image))
        return torch.stack(transformed)


class MyDataset(Dataset):
    """Images and their labels: `dataset[i]` is (transform(data[i]), target[i]), by torch's global random numbers.

    data: uint8 (n, 3, h, w); target: int64 (n,); transform: a transforms.Compose that begins with RandomCrop.
    Whole batches take all random numbers from the dataset's generators, which `seed_epoch` seeds. A
    transform with a method `sample_params(count, generator)` is called with a batch of images and those parameters,
    a tensor with one row per image; any other, but for Normalize, is applied image by image.
    Raises ValueError when the first transform is not RandomCrop.
    """

    def __init__(self, data, target, transform):
        # Stored as in HDF5, the three colours of a pixel side by side: what crop_batch gathers fastest.
        self.data = data.contiguous(memory_format=torch.channels_last)
        self.target = target
        self.transform = transform
        self.crop, *others = transform.transforms
        if not isinstance(self.crop, RandomCrop):
            raise ValueError(f"the first transform must be common.data.RandomCrop, not {type(self.crop).__name__}")
        by_batch = [isinstance(each, Normalize) or hasattr(each, "sample_params") for each in others]
        self.after_crop = [each if whole else PerImage(each) for each, whole in zip(others, by_batch, strict=True)]
        self.crop_generator = torch.Generator().manual_seed(EVALUATION_SEED)
        self.transform_generator = torch.Generator().manual_seed(EVALUATION_SEED)
        self.seeds = None  # the seed and epoch of the last `seed_epoch`, for a GPU's loader

    def __len__(self):
        return len(self.target)

    def __getitem__(self, index):
        return self.transform(self.data[index]), self.target[index]

    def __getitems__(self, indices):
        """Return a whole batch; DataLoader calls this instead of __getitem__ for each index."""
        indices = np.asarray(indices)
        top, left, *params = self.sample_params(len(indices))
        crops = self.crop.crop_batch(self.data, indices, top, left)
        return self.transform_batch(crops, self.after_crop, params), self.target[torch.from_numpy(indices)]

    def sample_params(self, count):
        """Generate the parameters of a batch: a list of tensors of `count` rows, first the crops' top and left."""
        random = [each for each in self.after_crop if hasattr(each, "sample_params")]
        top, left = self.crop.get_params(*self.data.shape[2:], count, self.crop_generator)
        return [top, left, *(each.sample_params(count, self.transform_generator) for each in random)]

    def seed_epoch(self, sampler, seed, epoch):
        """Seed the order of a sampler, and the dataset's crops and transforms, by the two numbers alone."""
        order, crops, others = map(int, np.random.SeedSequence([seed, epoch]).generate_state(3, np.uint64))
        if isinstance(sampler, (RandomSampler, WeightedRandomSampler)):
            sampler.generator.manual_seed(order)
        self.crop_generator.manual_seed(crops)
        self.transform_generator.manual_seed(others)
        self.seeds = seed, epoch

    @staticmethod
    def transform_batch(crops, after_crop, params):
        """Apply the transforms `after_crop`, each random one with its own of `params`, to a batch of crops."""
        params = iter(params)
        for transform in after_crop:
            crops = transform(crops, next(params)) if hasattr(transform, "sample_params") else transform(crops)
        return crops


def seed_epoch(loader, seed, epoch):
    """Seed the order, crops and transforms of the next pass over `loader` by the numbers `seed` and `epoch`.

    So an epoch can be repeated without those before it, in batches of the same size. Epoch 0 is for evaluation.
    """
    loader.dataset.seed_epoch(loader.sampler, seed, epoch)


def make_loader(images, labels, transform, batch_size=64, shuffle=False, weights=None):
    """Return a DataLoader of transformed crops, float32 (batch, 3, size, size), and labels, int64 (batch,).

    images: uint8 (n, 3, h, w); transform: as MyDataset takes it; weights: of each image, float (n,), to sample n images
    per epoch with replacement. `seed_epoch` seeds the next pass.
    """
    dataset = MyDataset(images, labels, transform)
    sampler = RandomSampler(dataset, generator=torch.Generator()) if shuffle else SequentialSampler(dataset)
    if weights is not None:
        sampler = WeightedRandomSampler(weights, len(weights), generator=torch.Generator())
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        generator=torch.Generator(),  # DataLoader seeds workers from it at every pass: not from torch's own
        collate_fn=lambda batch: batch,  # __getitems__ has put the batch together
    )


class Task(NamedTuple):
    """What a network is trained and tested on."""

    name: str  # main (classes 0-7 of Galaxy10) or transfer (8 and 9, those held back)
    train_loader: DataLoader  # shuffled
    test_loader: DataLoader  # in order
    class_names: list  # of the labels 0, 1, ...


def make_loaders(data, task, transform, batch_size=64, train_transform=None, weights=None):
    """Return the Task called `task`, main or transfer, of Q1's data.

    transform: of all images, unless the training images have a `train_transform`; weights: of the training images, as
    `make_loader` takes them. The batches of the test loader always have 64 images: the crops depend on their size.
    Raises ValueError for the transfer task when no classes are held back.
    """
    names = task_names(data)[task]
    if not names:
        raise ValueError(f"no classes are held back for {task}: rerun q1_data.py with --hold-back and two or more")
    train, test = ((data[f"{task}_{subset}_images"], data[f"{task}_{subset}_labels"]) for subset in ("train", "test"))
    return Task(
        task,
        make_loader(*train, train_transform or transform, batch_size, shuffle=True, weights=weights),
        make_loader(*test, transform),
        names,
    )


def load_data(out):
    """Return Q1's dict of tensors, names and source from the artifacts folder `out`."""
    path = Path(out) / "q1_data.pt"
    data = load_tensors(path, made_by="q1_data.py")
    needed = {f"{subset}_{kind}" for subset in SUBSETS for kind in ("images", "labels", "indices")}
    needed |= {"mean", "std", "class_names", "main_classes", "own_split", "source", "fingerprint"}
    if not isinstance(data, dict) or not needed <= set(data):
        raise ValueError(f"{path} is not what q1_data.py writes: rerun it")
    return data

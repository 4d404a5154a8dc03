"""Dataset, transforms and loader: from uint8 images to normalised random crops."""

from pathlib import Path

from common.galaxies.facts import SUBSETS
from common.galaxies.split import task_names
from common.hardware.layers import memory_format
from common.storage.artifacts import load_tensors

import numpy as np
import torch
from torch.utils.data import Dataset

EVALUATION_SEED = 467  # for the crops of every test metric, independent of --seed


class RandomCrop:
    """Crop each image of a batch to `size` x `size` pixels, each at its random position.

    (torchvision's RandomCrop crops all images of a batch at the same position.) Positions are uniform over all
    windows within the image. The crops are float32, in channels_last order.
    """

    def __init__(self, size):
        self.size = size

    def __repr__(self):
        return f"RandomCrop({self.size})"

    def __call__(self, images):
        """Crop uint8 images, (3, h, w) or (n, 3, h, w), at positions from torch's global random numbers."""
        batch = images.reshape(-1, *images.shape[-3:]).contiguous(memory_format=torch.channels_last)
        top, left = self.sample_positions(batch.shape, len(batch))
        return self.crop(batch, torch.arange(len(batch)), top, left).reshape(*images.shape[:-2], self.size, self.size)

    def sample_positions(self, shape, count, generator=None):
        """Generate the top and left edges, int64 (count,) each, of windows in images of shape (n, 3, h, w)."""
        top = torch.randint(shape[2] - self.size + 1, (count,), generator=generator)
        left = torch.randint(shape[3] - self.size + 1, (count,), generator=generator)
        return top, left

    def crop(self, images, index, top, left):
        """Crop images[index], int64 (m,), at the given edges: uint8 (n, 3, h, w) to float32 (m, 3, size, size).

        The images must be in channels_last order.
        """
        # crops[i] = images[index[i], :, top[i] : top[i] + size, left[i] : left[i] + size], all copied in one call.
        # In memory a row of a window is 3 * size adjacent bytes, a run. Row j of `runs`, a view, begins at byte j.
        image_step, _, row_step, pixel_step = images.stride()
        length = 3 * self.size
        runs = images.as_strided((images.numel() - length + 1, length), (1, 1))
        first = index * image_step + top * row_step + left * pixel_step
        starts = first[:, None] + torch.arange(self.size, device=images.device) * row_step
        crops = runs.index_select(0, starts.flatten()).float()
        return crops.view(-1, self.size, self.size, 3).permute(0, 3, 1, 2)


def normalize_rows(normalize, width, device):
    """Return a function that normalises crops, float32 (n, 3, h, width), in place, as torchvision's `normalize` does.

    (x - mean) / std becomes one pass of x * scale + shift over whole rows, because the colours of a pixel are adjacent
    in channels_last order. Without it an epoch takes 1.32 times as long for the FCN, 1.07 times for the CNN (Xeon,
    AVX-512).
    """
    mean, std = (torch.as_tensor(each, dtype=torch.float32) for each in (normalize.mean, normalize.std))
    scale, shift = (1 / std).repeat(width).to(device), (-mean / std).repeat(width).to(device)

    def normalize_crops(crops):
        rows = crops.permute(0, 2, 3, 1).flatten(2)
        torch.addcmul(shift, rows, scale, out=rows)
        return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

    return normalize_crops


class MyDataset(Dataset):
    """Images and their labels: `dataset[i]` is (transform(data[i]), target[i]), for an index, slice or list of indices.

    data: uint8 (n, 3, h, w); target: int64 (n,); transform: for example a transforms.Compose that begins with
    RandomCrop.
    """

    def __init__(self, data, target, transform):
        # Stored as in HDF5, with the three colours of a pixel adjacent: the fastest order to crop from.
        self.data = data.contiguous(memory_format=torch.channels_last)
        self.target = target
        self.transform = transform

    def __len__(self):
        return len(self.target)

    def __getitem__(self, index):
        return self.transform(self.data[index]), self.target[index]


class Loader:
    """Batches of a MyDataset, in place of torch's DataLoader: it crops whole batches, on `device`.

    The dataset's transform is a transforms.Compose of RandomCrop, transforms.Normalize and functions of a batch of
    crops, float32 (m, 3, size, size). A random transform has a method `sample_params(count, generator)` that returns a
    tensor with a row per crop, and is called as transform(crops, params). weights: float (n,); if given, each epoch
    samples n images with replacement. The uint8 images are copied to `device` once. Raises ValueError for torchvision's
    other transforms, because the random ones would transform all images of a batch in the same way.
    """

    def __init__(self, dataset, batch_size=64, shuffle=False, weights=None, device="cpu"):
        from torchvision.transforms import Normalize  # here: torchvision takes 2 s to import

        self.dataset, self.batch_size, self.shuffle, self.weights = dataset, batch_size, shuffle, weights
        self.images, self.labels = dataset.data.to(device), dataset.target.to(device)
        self.crop, *others = dataset.transform.transforms
        self.random = [each for each in others if hasattr(each, "sample_params")]
        if not isinstance(self.crop, RandomCrop):
            raise ValueError(f"the first transform must be common.data.RandomCrop, not {self.crop}")
        self.after_crop = []
        for each in others:
            if isinstance(each, Normalize):
                each = normalize_rows(each, self.crop.size, device)
            elif type(each).__module__.startswith("torchvision"):
                raise ValueError(f"{each} would treat all images of a batch alike: see README.md, Changing things")
            self.after_crop.append(each)

        self.sampled = {}  # the last result of `sample_epoch`, by seed and epoch; evaluations reuse it

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def sample_epoch(self, seed, epoch):
        """Generate all random numbers of an epoch; for a given loader they depend only on `seed` and `epoch`.

        Return tensors with a row per image: the order of the images, the top and left edges of their crops, and the
        parameters of each random transform.
        """
        state = np.random.SeedSequence([seed, epoch]).generate_state(3, np.uint64)
        order_generator, crop_generator, transform_generator = (
            torch.Generator().manual_seed(int(each)) for each in state
        )
        order = torch.arange(len(self.labels))
        if self.weights is not None:
            weights = torch.as_tensor(self.weights, dtype=torch.double)
            order = torch.multinomial(weights, len(order), replacement=True, generator=order_generator)
        elif self.shuffle:
            order = torch.randperm(len(order), generator=order_generator)
        batches = []
        for index in order.split(self.batch_size):
            positions = self.crop.sample_positions(self.images.shape, len(index), crop_generator)
            params = (each.sample_params(len(index), transform_generator) for each in self.random)
            batches.append((index, *positions, *params))
        return [torch.cat(column).to(self.images.device) for column in zip(*batches, strict=True)]

    def gather(self, index, top, left, *params):
        """Return crops, float32 (m, 3, size, size), and labels, int64 (m,), of some rows of `sample_epoch`."""
        crops, remaining = self.crop.crop(self.images, index, top, left), iter(params)
        for transform in self.after_crop:
            crops = transform(crops, next(remaining)) if transform in self.random else transform(crops)
        return crops.contiguous(memory_format=memory_format(crops.device)), self.labels[index]

    def batches(self, seed, epoch, batch_size=None):
        """Yield the crops, float32 (m, 3, size, size), and labels, int64 (m,), of each batch of an epoch.

        batch_size: size of the batches (default: the loader's); it does not change the crops.
        """
        size = batch_size or self.batch_size
        on_cpu = self.images.device.type == "cpu"
        # On a GPU many batches are cropped at once: cropping one by one took a sixth of the FCN's epoch (H200).
        block = size if on_cpu else max(1, 4096 // size) * size
        columns = self.sampled.get((seed, epoch)) or self.sample_epoch(seed, epoch)
        self.sampled = {(seed, epoch): columns}
        for rows in zip(*(column.split(block) for column in columns), strict=True):
            yield from zip(*(each.split(size) for each in self.gather(*rows)), strict=True)
        if self.shuffle and not on_cpu:  # sample the next epoch while the GPU still computes this one
            self.sampled[seed, epoch + 1] = self.sample_epoch(seed, epoch + 1)


def load_data(out):
    """Return Q1's dict of tensors, names and source from the artifacts folder `out`."""
    path = Path(out) / "q1_data.pt"
    data = load_tensors(path, made_by="q1_data.py")
    needed = {f"{subset}_{kind}" for subset in SUBSETS for kind in ("images", "labels", "indices")}
    needed |= {"mean", "std", "class_names", "main_classes", "own_split", "source", "fingerprint"}
    if not isinstance(data, dict) or not needed <= set(data):
        raise ValueError(f"{path} was not written by this q1_data.py: rerun it")
    return data


def class_names_of(data, task):
    """Return the class names of a task, main or transfer, in the order of its labels 0, 1, ...; data: Q1's dict.

    Raises ValueError for the transfer task when no classes are held back.
    """
    names = task_names(data)[task]
    if not names:
        raise ValueError(
            f"no classes are held back for {task}: rerun q1_data.py with --hold-back and two or more classes"
        )
    return names

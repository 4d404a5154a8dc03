"""From uint8 pictures to normalised random crops: the dataset, its transform and the loaders."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

CROP_SIZE = 48  # pixels, what the networks take
EVALUATION_SEED = 467  # the crops behind every test figure, whatever --seed says


def epoch_seed(seed, epoch):
    """Return the seed of everything that epoch number `epoch` of a run draws.

    It depends on nothing else, so an epoch can be drawn again without those before it.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


class RandomCrop:
    """Cut a random window of `size` x `size` pixels out of every image, each image its own.

    (torchvision's RandomCrop draws one window for all images of a batch.) The corners come from
    `generator`, uniformly over all positions. The result is float32, in channels_last order.
    """

    def __init__(self, size, generator):
        self.size = size
        self.generator = generator

    def __call__(self, image):
        """Crop one image: uint8 (3, h, w) to float32 (3, size, size)."""
        return self.take(image[None], [0])[0]

    def take(self, images, indices):
        """Crop images[indices]: uint8 (n, 3, h, w) to float32 (len(indices), 3, size, size)."""
        # Selecting and cropping are one gather. Of (n, h, w, 3) bytes every window is `size` runs of
        # 3 * size bytes; this view has them all, and indexing it copies the wanted ones and no more.
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        n, height, width, channels = pixels.shape
        rows, columns = height - self.size + 1, width - self.size + 1
        image_step, row_step, pixel_step, byte = pixels.strides
        windows = np.lib.stride_tricks.as_strided(
            pixels,
            (n, rows, columns, self.size, self.size * channels),
            (image_step, row_step, pixel_step, row_step, byte),
            writeable=False,
        )
        top = torch.randint(rows, (len(indices),), generator=self.generator)
        left = torch.randint(columns, (len(indices),), generator=self.generator)
        crops = windows[np.asarray(indices), top.numpy(), left.numpy()]
        crops = torch.from_numpy(crops).view(-1, self.size, self.size, channels)
        return crops.permute(0, 3, 1, 2).float()


class MyDataset(Dataset):
    """Images and their labels: `dataset[i]` is (transform(data[i]), target[i]).

    data: uint8 (n, 3, h, w); target: int64 (n,); transform: a Compose that begins with RandomCrop.
    """

    def __init__(self, data, target, transform):
        # Kept as HDF5 has them, a pixel's three colours side by side: what RandomCrop.take gathers fastest.
        self.data = data.contiguous(memory_format=torch.channels_last)
        self.target = target
        self.transform = transform

    def __len__(self):
        return len(self.target)

    def __getitem__(self, index):
        return self.transform(self.data[index]), self.target[index]

    def __getitems__(self, indices):
        """Return a whole batch; DataLoader calls this in place of len(indices) single look-ups."""
        crop, *others = self.transform.transforms
        images = crop.take(self.data, indices)
        for transform in others:
            images = transform(images)
        return images, self.target[indices]


def make_loader(images, labels, mean, std, batch_size=64, shuffle=False):
    """Return a DataLoader of normalised random crops, float32 (batch, 3, 48, 48), and int64 labels.

    images: uint8 (n, 3, h, w); mean, std: float32 (3,), in units of the images' 0-255.
    All it draws, order and crops, comes from `loader.generator`: seed that, and a pass is fixed.
    """
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    transform = transforms.Compose([RandomCrop(CROP_SIZE, generator), transforms.Normalize(mean, std, inplace=True)])
    return DataLoader(
        MyDataset(images, labels, transform),
        batch_size=batch_size,
        shuffle=shuffle,
        generator=generator,
        collate_fn=lambda batch: batch,  # __getitems__ has put the batch together
    )


def make_loaders(data, part, batch_size):
    """Return the training loader, shuffled, and the test loader of `part` (main or transfer) of Q1's data.

    The test loader's batches are always the same size: the last bits of a sum depend on it.
    """
    mean, std = data["mean"], data["std"]
    return (
        make_loader(data[f"{part}_train_images"], data[f"{part}_train_labels"], mean, std, batch_size, shuffle=True),
        make_loader(data[f"{part}_test_images"], data[f"{part}_test_labels"], mean, std),
    )

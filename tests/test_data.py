"""Compare crops, normalisation and loader with slices of images, torchvision and torch's DataLoader."""

from common.data import Loader, MyDataset, RandomCrop, normalize_rows
from common.symmetries import RandomSymmetry

import numpy as np
import pytest
import torch
from conftest import crop_transform, random_data
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, WeightedRandomSampler
from torchvision import transforms

CROP = transforms.Compose([RandomCrop(48)])
MEAN, STD = torch.tensor([10.0, 20, 30]), torch.tensor([3.0, 4, 5])


def numbered_images(count):
    """Return images whose channels contain each pixel's row, its column, and the number of the image."""
    images = torch.empty(count, 3, 69, 69, dtype=torch.uint8)
    images[:, 0] = torch.arange(69, dtype=torch.uint8)[:, None]
    images[:, 1] = torch.arange(69, dtype=torch.uint8)
    images[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return images


def epoch_of(loader, seed=0, epoch=1):
    """Return all crops and labels of an epoch."""
    return tuple(map(torch.cat, zip(*loader.batches(seed, epoch), strict=True)))


def test_every_crop_is_a_window_of_its_image():
    images = random_data(40)[0]
    index = [7, 7, 3, 39]
    crops, _ = MyDataset(images, torch.zeros(40), CROP)[index]
    assert crops.shape == (4, 3, 48, 48)
    assert crops.dtype == torch.float32
    for crop, place in zip(crops, index, strict=True):
        windows = [images[place, :, top : top + 48, left : left + 48] for top in range(22) for left in range(22)]
        assert sum(torch.equal(crop, window.float()) for window in windows) == 1


def test_crops_of_one_batch_differ_and_all_offsets_occur_equally_often():
    images, counts = numbered_images(2), torch.zeros(484, dtype=torch.float64)
    torch.manual_seed(0)
    for _ in range(50):
        top, left = RandomCrop(48)(images[:1].expand(484, -1, -1, -1))[:, :2, 0, 0].long().T
        assert left.max() <= 21
        counts += torch.bincount(top * 22 + left, minlength=484)
    chi_square = ((counts - 50) ** 2 / 50).sum().item()
    assert (counts > 0).all()
    assert abs(chi_square - 483) < 5 * np.sqrt(2 * 483)  # mean and deviation for 483 degrees of freedom


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_dataset_works_with_torchs_dataloader(order):
    images, labels = random_data(10)
    dataset = MyDataset(images.contiguous(memory_format=order), labels, crop_transform(MEAN, STD))
    torch.manual_seed(5)
    expected = [transforms.Normalize(MEAN, STD)(RandomCrop(48)(image)) for image in images]
    for options in ({"batch_size": 4}, {"batch_size": None, "sampler": range(10)}):
        torch.manual_seed(5)
        loader = DataLoader(dataset, generator=torch.Generator(), **options)
        crops, found = zip(*loader, strict=True)
        assert torch.equal(torch.cat([crop.view(-1, 3, 48, 48) for crop in crops]), torch.stack(expected))
        assert torch.cat([each.view(-1) for each in found]).tolist() == labels.tolist()
    batches = BatchSampler(SequentialSampler(dataset), 4, drop_last=False)
    torch.manual_seed(5)
    crops, found = zip(*DataLoader(dataset, batch_size=None, sampler=batches), strict=True)
    assert [crop.shape for crop in crops] == [(4, 3, 48, 48), (4, 3, 48, 48), (2, 3, 48, 48)]
    assert torch.cat(found).tolist() == labels.tolist()


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_loader_gives_every_image_once_cropped_and_normalised(shuffle):
    images, labels = numbered_images(150), torch.arange(150)
    loader = Loader(MyDataset(images, labels, CROP), 64, shuffle)
    assert [len(batch) for _, batch in loader.batches(0, 1)] == [64, 64, 22]
    assert len(loader) == 3
    crops, order = epoch_of(loader)
    assert torch.equal(order.sort().values, labels)
    assert torch.equal(order, labels) != shuffle
    assert torch.equal(crops[:, 2, 0, 0].long(), order)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    normalised, _ = epoch_of(Loader(MyDataset(images, labels, crop_transform(MEAN, STD)), 64, shuffle))
    for crop, each in zip(crops, normalised, strict=True):
        window = images[int(crop[2, 0, 0]), :, int(crop[0, 0, 0]) :, int(crop[1, 0, 0]) :][:, :48, :48]
        assert torch.equal(crop, window.float())
        torch.testing.assert_close(each, transforms.Normalize(MEAN, STD)(window.float()), rtol=1e-6, atol=1e-5)


def test_an_epochs_random_numbers_depend_only_on_seed_and_epoch():
    loader = Loader(MyDataset(numbered_images(100), torch.arange(100), CROP), shuffle=True)

    def corners(seed, epoch):
        return epoch_of(loader, seed, epoch)[0][:, :, 0, 0]

    state = torch.get_rng_state()
    first = corners(0, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    different = {tuple(corners(seed, epoch).flatten().tolist()) for seed in range(5) for epoch in range(6)}
    assert len(different) == 30
    assert torch.equal(corners(0, 3), first)


def test_batches_of_another_size_have_the_same_crops():
    loader = Loader(MyDataset(*random_data(200), crop_transform(MEAN, STD)), shuffle=True)
    batches = list(loader.batches(3, 1, batch_size=150))
    assert [len(labels) for _, labels in batches] == [150, 50]
    for found, expected in zip(map(torch.cat, zip(*batches, strict=True)), epoch_of(loader, 3), strict=True):
        assert torch.equal(found, expected)


def test_weighted_sampling_matches_torchs_sampler():
    weights = torch.tensor([0.1] * 50 + [0.9] * 50, dtype=torch.double)
    loader = Loader(MyDataset(*random_data(100), CROP), weights=weights)
    loader.labels = torch.arange(100)
    order = epoch_of(loader)[1]
    state = np.random.SeedSequence([0, 1]).generate_state(3, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    assert order.tolist() == list(WeightedRandomSampler(weights, 100, generator=generator))
    assert (order >= 50).sum() > 75  # 90 expected, standard deviation 3


class RandomShift:
    """Add a random integer to all pixels of each crop."""

    def sample_params(self, count, generator):
        return torch.randint(1, 1000, (count,), generator=generator)

    def __call__(self, crops, shift):
        return crops + shift[:, None, None, None]


@pytest.mark.parametrize("extra", [RandomShift(), RandomSymmetry()])
def test_a_random_transform_keeps_the_crops_and_depends_only_on_the_epoch(extra):
    dataset = MyDataset(*random_data(150), transforms.Compose([RandomCrop(48), extra]))
    plain, changed = (epoch_of(Loader(each))[0] for each in (MyDataset(*random_data(150), CROP), dataset))
    params = Loader(dataset).sample_epoch(0, 1)[3]
    assert params.unique().numel() > 7
    assert torch.equal(changed, extra(plain, params))
    assert torch.equal(epoch_of(Loader(dataset))[0], changed)
    assert not torch.equal(Loader(dataset).sample_epoch(0, 2)[3], params)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [transforms.RandomHorizontalFlip(), RandomCrop(48)],
            r"must be common\.data\.RandomCrop, not RandomHor",
        ),
        ([RandomCrop(48), transforms.RandomHorizontalFlip()], "would treat all images of a batch alike: see README"),
    ],
)
def test_transforms_that_would_treat_a_batch_alike_are_rejected(steps, words):
    with pytest.raises(ValueError, match=words):
        Loader(MyDataset(*random_data(10), transforms.Compose(steps)))


# x * scale + shift and (x - mean) / std each round at most four times, by half a unit in the last place, 6e-8, of at
# most 255 / 3: the error is below 2e-5 for large results, and below 2e-6 if x is near the mean and the result near
# zero.
def test_normalised_rows_match_torchvision_up_to_rounding():
    crops = torch.rand(5, 3, 48, 48) * 255
    normalize = transforms.Normalize(MEAN, STD)
    for order in (torch.contiguous_format, torch.channels_last):
        normalised = normalize_rows(normalize, 48, "cpu")(crops.clone(memory_format=order))
        torch.testing.assert_close(normalised, normalize(crops), rtol=1e-6, atol=1e-5)

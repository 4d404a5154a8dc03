from common.data import MyDataset, Normalize, PerImage, RandomCrop, make_loader, make_loaders, seed_epoch

import numpy as np
import pytest
import torch
from conftest import random_data
from torchvision import transforms

CROP = transforms.Compose([RandomCrop(48)])


def numbered_images(count):
    """Images whose first two channels say each pixel's row and column, and the third the image's number."""
    images = torch.empty(count, 3, 69, 69, dtype=torch.uint8)
    images[:, 0] = torch.arange(69, dtype=torch.uint8)[:, None]
    images[:, 1] = torch.arange(69, dtype=torch.uint8)
    images[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return images


def crop_at_random(images, indices, seed):
    crop = RandomCrop(48)
    generator = torch.Generator().manual_seed(seed)
    return crop.crop_batch(images, indices, *crop.get_params(69, 69, len(indices), generator))


def corners(crops):
    return crops[:, :2, 0, 0].long()


def test_every_crop_is_a_whole_window_of_its_own_image():
    images = random_data(40)[0]
    crops = crop_at_random(images, np.array([7, 7, 3, 39]), seed=0)
    assert crops.shape == (4, 3, 48, 48)
    assert crops.dtype == torch.float32
    for crop, index in zip(crops, [7, 7, 3, 39], strict=True):
        windows = [images[index, :, top : top + 48, left : left + 48] for top in range(22) for left in range(22)]
        assert sum(torch.equal(crop, window.float()) for window in windows) == 1


def test_crops_of_one_batch_differ_and_all_offsets_occur_equally_often():
    images, counts = numbered_images(2), torch.zeros(484, dtype=torch.float64)
    for seed in range(50):
        top, left = corners(crop_at_random(images, np.zeros(484, int), seed)).T
        assert left.max() <= 21
        counts += torch.bincount(top * 22 + left, minlength=484)
    chi_square = ((counts - 50) ** 2 / 50).sum().item()
    assert (counts > 0).all()
    assert abs(chi_square - 483) < 5 * np.sqrt(2 * 483)  # mean and deviation of chi-square with 483 degrees


def test_item_and_batch_access_give_what_transform_gives():
    images, labels = random_data(10)
    mean, std = torch.tensor([10.0, 20, 30]), torch.tensor([3.0, 4, 5])
    dataset = MyDataset(images, labels, transforms.Compose([RandomCrop(48), Normalize(mean, std)]))
    assert len(dataset) == 10
    torch.manual_seed(5)
    crop, label = dataset[4]
    dataset.crop_generator.manual_seed(5)
    crops, batch_labels = dataset.__getitems__([4])
    assert torch.equal(crop, crops[0])
    assert label == batch_labels[0] == labels[4]
    torch.manual_seed(5)
    window = RandomCrop(48)(images[4])
    # Three roundings of numbers up to 85, by 85 / 2**24 each: x * scale + shift in place of (x - mean) / std.
    torch.testing.assert_close(crop, (window - mean[:, None, None]) / std[:, None, None], rtol=0, atol=2e-5)


def test_dataset_takes_either_memory_order():
    images, labels = random_data(6)
    crops = []
    for order in (torch.contiguous_format, torch.channels_last):
        dataset = MyDataset(images.contiguous(memory_format=order), labels, CROP)
        dataset.crop_generator.manual_seed(1)
        crops.append(dataset.__getitems__([5, 0])[0])
    assert torch.equal(*crops)
    assert crops[0].is_contiguous(memory_format=torch.channels_last)


def test_loader_drops_nothing_and_shuffles_only_when_asked():
    images, labels = numbered_images(150), torch.arange(150)
    for shuffle in (False, True):
        batches = list(make_loader(images, labels, CROP, batch_size=64, shuffle=shuffle))
        assert [len(batch) for _, batch in batches] == [64, 64, 22]
        order = torch.cat([batch for _, batch in batches])
        assert torch.equal(order.sort().values, labels)
        assert torch.equal(order, labels) != shuffle
        assert torch.equal(torch.cat([crops[:, 2, 0, 0] for crops, _ in batches]).long(), order)


def test_what_an_epoch_draws_depends_on_seed_and_epoch_alone():
    images, labels = numbered_images(100), torch.arange(100)
    loader = make_loader(images, labels, CROP, shuffle=True)

    def draw(seed, epoch):
        seed_epoch(loader, seed, epoch)
        return torch.cat([crops.flatten(1)[:, :1] for crops, _ in loader])

    state = torch.get_rng_state()
    first = draw(0, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    list(loader)
    assert torch.equal(draw(0, 3), first)
    assert not torch.equal(draw(0, 4), first)
    assert not torch.equal(draw(1, 3), first)
    draws = {tuple(draw(seed, epoch).flatten().tolist()) for seed in range(5) for epoch in range(6)}
    assert len(draws) == 30


def test_test_loader_has_the_same_batches_whatever_the_batch_size():
    images, labels = random_data(90)
    data = {f"main_{half}_{kind}": value for half in ("train", "test") for kind, value in
            (("images", images), ("labels", labels))} | {"class_names": list("abcdefghij")}  # fmt: skip
    task = make_loaders(data, "main", CROP, batch_size=30)
    assert len(task.train_loader) == 3
    assert [len(labels) for _, labels in task.test_loader] == [64, 26]
    assert task.class_names == list("abcdefgh")


@pytest.mark.parametrize("transform", [transforms.RandomResizedCrop(32), transforms.RandomErasing(value="random")])
def test_a_transform_by_image_takes_the_random_numbers_of_torch_manual_seed(transform):
    by_image = PerImage(transform)
    images, seeds = torch.rand(5, 3, 48, 48), by_image.sample_params(5, torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    transformed = by_image(images.clone(), seeds)
    assert torch.equal(torch.get_rng_state(), state)
    for image, seed, result in zip(images, seeds.tolist(), transformed, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(transform(image), result)


# x * scale + shift and (x - mean) / std each round at most four times, by half a unit in the last place, 6e-8, of at
# most 255 / 3: below 2e-5 where the result is large, and 2e-6 where x is near the mean and the result near zero.
def test_normalize_is_torchvisions_but_for_rounding():
    mean, std = torch.tensor([10.0, 20, 30]), torch.tensor([3.0, 4, 5])
    crops = torch.rand(5, 3, 48, 48) * 255
    expected = transforms.Normalize(mean, std)(crops)
    for order in (torch.contiguous_format, torch.channels_last):
        normalised = Normalize(mean, std)(crops.clone(memory_format=order))
        torch.testing.assert_close(normalised, expected, rtol=1e-6, atol=1e-5)
    single = Normalize(mean, std)(crops[0].clone())
    torch.testing.assert_close(single, expected[0], rtol=1e-6, atol=1e-5)

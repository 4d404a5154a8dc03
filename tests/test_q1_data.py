"""Q1's command line: which image and label come where, how many images train, and files that cannot be split."""

import json

from common.data import MyDataset, RandomCrop
from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS
from q1_data import channel_statistics

import h5py
import numpy as np
import pytest
import torch
from conftest import run_well, write_galaxy10
from torchvision import transforms


def packed_sdss(path):
    """Write 1,300 images in compressed chunks of seven, which are read in two blocks; return them and their labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1300, 69, 69, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(1300, dtype=np.int32) % 10)
    write_galaxy10(path, images=None, ans=labels)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(7, 69, 69, 3))
    return images, labels


def decals(path):
    """Write 90 images in DECaLS's form, which are read in two blocks; return them at 64 pixels, and their labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 256, 256, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(90, dtype=np.uint8) % 10)
    write_galaxy10(path, images=images, ans=labels, **dict.fromkeys(DECALS_KEYS, np.zeros(90)))
    return images.reshape(90, 64, 4, 64, 4, 3).mean((2, 4)).round().astype(np.uint8), labels


@pytest.mark.parametrize(
    ("write", "size", "split", "names"),
    [(packed_sdss, 69, "stratified", CLASS_NAMES), (decals, 64, "file", DECALS_CLASS_NAMES)],
)
def test_each_image_and_label_of_the_file_comes_to_its_row(write, size, split, names, tmp_path):
    images, labels = write(tmp_path / "galaxies.h5")
    options = ("--data", tmp_path / "galaxies.h5", "--image-size", size, "--split", split)
    printed = run_well("q1_data.py", *options, "--main-train", 60, "--transfer-train", 14, "--out", tmp_path)
    published = "DECaLS" if names == DECALS_CLASS_NAMES else "SDSS"
    assert f"classes are named as those of Galaxy10 {published}; the attribute class_names overrides that" in printed
    data = torch.load(tmp_path / "q1_data.pt", weights_only=True)
    assert data["class_names"] == list(names)
    for task, classes in (("main", range(8)), ("transfer", (8, 9))):
        indices = [index for index in range(len(labels)) if labels[index] in classes]
        found = torch.cat([data[f"{task}_{half}_indices"] for half in ("train", "test")]).tolist()
        assert sorted(found) == indices
        assert (found == indices) == (split == "file")
        assert len(data[f"{task}_train_indices"]) == {"main": 60, "transfer": 14}[task]
        for half in ("train", "test"):
            rows = zip(*(data[f"{task}_{half}_{kind}"] for kind in ("indices", "images", "labels")), strict=True)
            for index, image, label in rows:
                assert (image.numpy() == images[index].transpose(2, 0, 1)).all()
                assert label == labels[index] - classes[0]


def test_mean_and_std_are_those_of_all_pixels_of_all_crops():
    images = torch.randint(256, (100, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 3
    crop = transforms.Compose([RandomCrop(48)])  # the whole image
    mean, std = channel_statistics(MyDataset(images, torch.zeros(100, dtype=torch.int64), crop))
    np.testing.assert_allclose(mean, images.numpy().mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, images.numpy().std((0, 2, 3)), rtol=1e-6)


def test_the_smallest_synthetic_set_can_be_split_and_its_file_stays_synthetic(tmp_path):
    run_well("q1_data.py", "--source", "synthetic", "--count", 40, "--out", tmp_path)
    record = json.loads((tmp_path / "q1_data.json").read_text())
    assert sum(map(sum, record["counts"].values())) == 40
    assert all(min(counts) >= 1 for counts in record["counts"].values())
    assert record["args"]["main_train"] is None  # as given: make compares with it
    printed = run_well("q1_data.py", "--data", tmp_path / "synthetic.h5", "--out", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "q1_data.json").read_text())
    assert record["source"] == again["source"] == "synthetic"
    assert record["fingerprint"] == again["fingerprint"]
    assert "These are not Galaxy10 SDSS's 21,785 images" in printed

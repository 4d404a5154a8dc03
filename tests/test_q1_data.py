"""Q1's command line: which image and label come where, how many images train, and files that cannot be split."""

import json
import re

from common.data import MyDataset, RandomCrop
from common.galaxies.facts import CLASS_NAMES
from q1_data import channel_statistics

import numpy as np
import pytest
import torch
from conftest import run_well, write_galaxy10
from torchvision import transforms


@pytest.mark.parametrize("split", ["stratified", "file"])
def test_each_image_label_and_id_of_the_file_comes_to_its_row(split, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 69, 69, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(200, dtype=np.int32) % 10)
    path = write_galaxy10(tmp_path / "galaxies.h5", images=images, ans=labels, objid=np.arange(200) + 2**60)
    options = ("--data", path, "--split", split, "--main-train", 60, "--transfer-train", 14)
    run_well("q1_data.py", *options, "--out", tmp_path)
    data = torch.load(tmp_path / "q1_data.pt", weights_only=True)
    assert data["class_names"] == list(CLASS_NAMES)
    for task, classes in (("main", range(8)), ("transfer", (8, 9))):
        indices = [index for index in range(len(labels)) if labels[index] in classes]
        found = torch.cat([data[f"{task}_{half}_indices"] for half in ("train", "test")]).tolist()
        assert sorted(found) == indices
        assert (found == indices) == (split == "file")
        assert len(data[f"{task}_train_indices"]) == {"main": 60, "transfer": 14}[task]
        for half in ("train", "test"):
            kinds = ("indices", "images", "labels", "ids")
            for index, image, label, key in zip(*(data[f"{task}_{half}_{kind}"] for kind in kinds), strict=True):
                assert (image.numpy() == images[index].transpose(2, 0, 1)).all()
                assert label == labels[index] - classes[0]
                assert key == str(2**60 + int(index))


def test_images_of_both_subsets_are_counted(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), dtype=np.uint8)
    images[50:60] = images[:10]  # in the file's order 0-39 of the main classes train, 40-47 test
    images[49] = images[0]  # of another task than 0
    path = write_galaxy10(tmp_path / "galaxies.h5", images=images)
    options = ("--data", path, "--split", "file", "--main-train", 40, "--transfer-train", 10, "--out", tmp_path)
    printed = run_well("q1_data.py", *options)
    assert re.findall(r".*exact copies.*", printed) == [
        "8 of 8 test images (main) are exact copies of a training image.",
        "2 of 2 test images (transfer) are exact copies of a training image.",
    ]
    images[50:60] += 1
    printed = run_well("q1_data.py", "--data", write_galaxy10(path, images=images), *options[2:])
    assert "exact copies" not in printed


def test_mean_and_std_match_all_pixels_of_all_crops():
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


def test_dollars_in_the_names_of_classes_are_drawn_as_they_stand(tmp_path):
    names = ["E$^+$", "S$_{0$x", *(f"${number}" for number in range(8))]
    path = write_galaxy10(tmp_path / "own.h5", count=100, class_names=names)
    run_well("q1_data.py", "--data", path, "--out", tmp_path)
    assert (tmp_path / "q1_data.png").stat().st_size > 10_000

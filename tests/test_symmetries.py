from common.data import Loader, MyDataset, RandomCrop, load_data
from common.storage.artifacts import load_json
from common.symmetries import RandomSymmetry, transformed
from common.train import predict
from studies.methods.training import train_on_main
from studies.symmetry import SymmetryMean

import numpy as np
import torch
from conftest import crop_transform, error_of, float32_tolerance, run, run_well, subset
from torch import nn
from torchvision import transforms


def crops(count=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 48, 48, 3, generator=generator).permute(0, 3, 1, 2)  # channels_last, as the loaders give


def by_numpy(image):
    """The eight symmetries of an image, float (3, h, w): four rotations of the image and of its mirror image."""
    return [np.rot90(each, turns, axes=(1, 2)) for each in (image, image[:, :, ::-1]) for turns in range(4)]


def test_the_eight_are_the_rotations_and_reflections_of_the_square():
    image = crops(1)[0]
    ours = {transformed(image, symmetry).numpy().tobytes() for symmetry in range(8)}
    assert ours == {np.ascontiguousarray(each).tobytes() for each in by_numpy(image.numpy())}
    assert len(ours) == 8
    assert torch.equal(transformed(image, 0), image)


def test_each_crop_of_a_batch_gets_its_own_and_the_copies_stay_channels_last():
    batch, symmetries = crops(), torch.arange(64) % 8
    before = batch.clone()
    expected = torch.stack([transformed(image, int(each)) for image, each in zip(batch, symmetries, strict=True)])
    turned = RandomSymmetry()(batch, symmetries)
    assert torch.equal(turned, expected)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, before)


def test_all_eight_occur_alike_in_batches_and_depend_on_the_seed():
    images, labels = torch.randint(256, (1, 3, 69, 69), dtype=torch.uint8).repeat(800, 1, 1, 1), torch.zeros(800).long()
    loader = Loader(MyDataset(images, labels, transforms.Compose([RandomCrop(69), RandomSymmetry()])))
    first = torch.cat([batch for batch, _ in loader.batches(1, 1)])
    counts = np.unique(first.reshape(800, -1).numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 8
    assert counts.min() > 60  # of 100 expected, standard deviation 9
    assert torch.equal(torch.cat([batch for batch, _ in loader.batches(1, 1)]), first)
    one, _ = loader.dataset[0]
    assert (one.numpy() == first.numpy()).all(axis=(1, 2, 3)).any()


def test_the_mean_over_the_symmetries_does_not_depend_on_how_an_image_lies():
    torch.manual_seed(0)
    network = SymmetryMean(nn.Sequential(nn.Flatten(), nn.Linear(6912, 8)))
    batch = crops(5)
    with torch.no_grad():
        logits = torch.stack([network.network(transformed(batch, each)) for each in range(8)])
        expected, limit = logits.softmax(2).mean(0), float32_tolerance(6912, logits)
        for symmetry in range(8):
            torch.testing.assert_close(network(transformed(batch, symmetry)), expected, rtol=0, atol=limit)


def test_q3_trains_with_them_as_the_study_does_resumes_to_the_same_bits_and_tests_without_them(synthetic_run, tmp_path):
    for out in ("whole", "parts"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    options = ("--symmetries", "--seed", 3, "--device", "cpu", "--out")
    run_well("q3_cnn.py", "--epochs", 3, *options, tmp_path / "whole")
    run_well("q3_cnn.py", "--epochs", 1, *options, tmp_path / "parts")
    error = error_of(run("q3_cnn.py", "--epochs", 3, "--resume", *options[1:], tmp_path / "parts"))
    assert "belongs to a run with --symmetries True, not False" in error
    assert "Resuming" in run_well("q3_cnn.py", "--epochs", 3, "--resume", *options, tmp_path / "parts")
    assert (tmp_path / "whole" / "q3_cnn.pt").read_bytes() == (tmp_path / "parts" / "q3_cnn.pt").read_bytes()

    data, record = load_data(tmp_path / "whole"), load_json(tmp_path / "whole" / "q3_cnn.json")
    study = train_on_main("cnn", data, 3, 3, torch.device("cpu"), augmentations=[RandomSymmetry()])
    weights = torch.load(tmp_path / "whole" / "q3_cnn.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in study.state_dict().items())
    plain = Loader(MyDataset(*subset(data, "main_test"), crop_transform(data["mean"], data["std"])))
    assert predict(study, plain)[0].argmax(1).tolist() == record["test_predictions"]
    assert record["args"]["symmetries"] is True
    assert load_json(synthetic_run[0] / "q3_cnn.json")["args"]["symmetries"] is False

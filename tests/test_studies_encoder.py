"""The study of a larger encoder: what it measures, and where the encoder's weights and pictures come from."""

import socket
import sys

from common.data import load_data
from common.storage.artifacts import load_json, load_tensors, save_json, save_tensors
from common.storage.checkpoint import weights_hash
from studies import encoder
from studies.methods.training import head_accuracy

import h5py
import numpy as np
import pytest
import torch
from conftest import run_well, write_galaxy10
from torchvision import transforms
from torchvision.transforms import functional

NAME = "test_efficientnet.r160_in1k"
CPU = torch.device("cpu")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder with a model of timm as the Hub stores it, its weights also as a state_dict, and no network."""
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    config = {"architecture": "test_efficientnet", "num_classes": 1000, "pretrained_cfg": model.pretrained_cfg}
    save_json(config, tmp_path / "config.json")
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_tensors(model.state_dict(), tmp_path / "weights.pth")

    def no_network(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    return tmp_path, model.eval()


def features_of(model, images, size):
    """The features of images, uint8 (n, 3, h, w), with torchvision's transforms."""
    pixels = functional.resize(images / 255, [size, size], transforms.InterpolationMode.BICUBIC).clamp(0, 1)
    normalized = transforms.Normalize(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])(pixels)
    with torch.no_grad():
        return model.forward_head(model.forward_features(normalized), pre_logits=True)


def test_the_study_says_what_its_runs_have_measured(synthetic_run, offline, tmp_path):
    for path in synthetic_run[0].glob("q*"):
        (tmp_path / path.name).symlink_to(path)
    options = ("--encoder", NAME, "--encoder-size", 48, "--encoder-weights", offline[0] / "weights.pth")
    options = (*options, "--seeds", "0", "--epochs", 2, "--device", "cpu", "--out", tmp_path)
    printed = run_well("studies/encoder.py", *options)
    record, folder = load_json(tmp_path / "studies" / "encoder.json"), tmp_path / "studies"
    assert record["answer"] in printed
    [kept] = folder.glob("encoder-*.pt")
    features, data = load_tensors(kept, "studies.encoder")["features"], load_data(tmp_path)
    expected = features_of(offline[1], data["main_test_images"][:5], 48)
    torch.testing.assert_close(features[data["main_test_indices"][:5]], expected, rtol=1e-3, atol=1e-4)
    pairs = [
        (features[data[f"transfer_{each}_indices"]], data[f"transfer_{each}_labels"]) for each in ("train", "test")
    ]
    found = {}
    for task in ("main", "transfer"):
        found[task] = load_json(folder / "encoder" / f"seed-0-task-{task}.json")["result"]
        gain = 100 * (found[task]["encoder"] - found[task]["other"])
        assert f" {gain:+.1f} points" in record["answer"]
    assert found["main"]["other"] == load_json(tmp_path / "q3_cnn.json")["test_accuracy"]
    assert found["transfer"]["encoder"] == head_accuracy(*pairs, seed=0)
    with pytest.raises(ValueError, match=r"q3_cnn\.pt was changed while the study ran"):
        encoder.measure(tmp_path, CPU, 3, "transfer", 2, kept.name, backbone="another")


def test_without_timm_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^--encoder resnet18 needs timm: pip install timm$"):
        encoder.load_encoder("resnet18")


@pytest.mark.parametrize(("name", "weights"), [
    (NAME, "weights.pth"), (NAME, "model.safetensors"), ("local-dir:{}", None), ("local-dir:{}", "weights.pth"),
])  # fmt: skip
def test_weights_in_a_file_or_a_folder_need_no_network(name, weights, offline):
    folder, model = offline
    network, config = encoder.load_encoder(name.format(folder), weights and folder / weights)
    assert tuple(config["input_size"]) == (3, 160, 160)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("classifier.")}
    assert weights_hash(network.state_dict()) == weights_hash(kept)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_model_that_timm_cannot_load_is_an_error_with_a_way_out(offline):
    folder, _ = offline
    save_tensors({"conv.weight": torch.zeros(3)}, folder / "other.pth")
    for name, weights in (("no_such_model", None), ("local-dir:none", None), (NAME, folder / "other.pth")):
        with pytest.raises(ValueError, match=f"^--encoder {name}: timm cannot load it .*--encoder local-dir:FOLDER$"):
            encoder.load_encoder(name, weights)


def test_the_encoder_sees_the_pictures_of_the_file_at_their_own_resolution(offline, tmp_path):
    folder, model = offline
    pictures = np.random.default_rng(0).integers(0, 256, (60, 96, 96, 3), dtype=np.uint8)
    path, out = write_galaxy10(tmp_path / "own.h5", images=pictures, ans=np.arange(60) % 3), tmp_path / "out"
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = ["a", "b", "c"]
    run_well("q1_data.py", "--data", path, "--main-train", 40, "--out", out)
    data = load_data(out)

    def found(name=f"local-dir:{folder}", size=64):
        features, made_from, notes = encoder.encoder_features(name, None, size, data, out, CPU)
        return load_tensors(out / "studies" / features, "the study")["features"], made_from["pictures"], notes

    features, seen, notes = found()
    sentence = "The encoder sees the pictures of 96 x 96 pixels in own.h5, not the 69 of q1_data.pt."
    assert (seen, notes) == ("own.h5", [sentence])
    close = {"rtol": 1e-3, "atol": 1e-4}
    expected = features_of(model, torch.from_numpy(pictures).permute(0, 3, 1, 2), 64)
    torch.testing.assert_close(features, expected, **close)
    with h5py.File(path, "a") as file:
        file["images"][7] = 0
    with pytest.raises(ValueError, match=r"own.h5 has other pictures than q1_data.pt: rerun q1_data.py"):
        found(size=56)  # for which features are computed again
    path.unlink()
    (tmp_path / "zoobot").symlink_to(folder)
    features, seen, [note, sentence] = found(f"local-dir:{tmp_path / 'zoobot'}")
    assert seen == "q1_data.pt"
    assert note.startswith("The encoder sees the pictures of 69 x 69 pixels in q1_data.pt: ")
    assert note.endswith("own.h5, which q1_data.py read, no longer exists.")
    assert "which include galaxies of Galaxy10" in sentence
    rows = data["main_train_indices"]
    torch.testing.assert_close(features[rows], features_of(model, data["main_train_images"], 64), **close)

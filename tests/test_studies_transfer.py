import json
import math
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from common.storage.artifacts import load_data
from studies import encoders, heads, tables
from studies import transfer as study
from studies.transfer_report import apart, verdicts


def overlapping(count, seed=0):
    """Features of two classes that no plane separates, the last of them constant, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = torch.randn(count, 4, generator=generator) + 0.8 * labels[:, None] * torch.tensor([1, -1, 0.5, 0])
    features[:, 3] = 2
    return features, labels


def test_the_optimum_is_that_of_newtons_method_written_out():
    features, labels = overlapping(300)
    head = heads.optimal_head(features, labels)
    design = np.c_[features[:, :3].double().numpy(), np.ones(300)]
    weights = np.zeros(4)
    for _ in range(30):
        probability = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T * (probability * (1 - probability)) @ design
        weights -= np.linalg.solve(hessian, design.T @ (probability - labels.numpy()))
    direction = (head.weight[1] - head.weight[0]).detach().numpy()
    np.testing.assert_allclose(direction, [*weights[:3], 0], atol=1e-5)
    assert (head.bias[1] - head.bias[0]).item() == pytest.approx(weights[3], abs=1e-5)


def test_separable_classes_have_no_optimum():
    features, labels = overlapping(100)
    features[:, 0] = 10.0 * labels + torch.rand(100)
    assert heads.optimal_head(features, labels) is None


def test_adams_head_comes_near_the_optimum_and_is_compared_with_it():
    features, labels = overlapping(400)
    head = heads.train_head(features[None], labels, 200, 0.005, seed=0)
    compared = heads.compare_heads(head, heads.optimal_head(features, labels), *[(features, labels)] * 2)
    adam, optimum = compared["train_loss"]
    assert optimum <= adam < optimum + 0.005
    expected = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(features, labels).predict_proba(features)
    assert optimum == pytest.approx(-np.log(expected[np.arange(400), labels]).mean(), abs=1e-6)
    assert compared["agreement"] > 0.97
    assert compared["correlation"] > 0.99


def test_angles_are_those_of_closed_form():
    for degrees in (0, 1e-4, 30, 90, 135, 180):
        turned = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)
        assert heads.angle(torch.tensor([3.0, 0], dtype=torch.float64), 7 * turned) == pytest.approx(degrees, abs=1e-9)


def test_few_galaxies_are_repeated_until_the_steps_are_as_many():
    assert heads.epochs_for(800, 800, 50) == 50
    for size in (25, 50, 100, 200, 400):
        steps = heads.epochs_for(size, 800, 50) * math.ceil(size / 64)
        assert 650 <= steps < 650 + math.ceil(size / 64)


def test_verdicts_sort_the_sizes_by_what_their_intervals_tell():
    intervals = [
        {"mean": m, "low": low, "high": high} for m, low, high in ((0.1, 0.05, 0.15), (0, -1, 1), (-1, -2, -0.5))
    ]
    text = verdicts(intervals, [25, 50, 100])
    assert text.startswith("ahead with 25 (+10.0 [5.0, 15.0]); behind with 100 ")
    assert "cannot be told with 50 (" in text


def test_labels_keep_their_order_and_distance():
    moved = apart({"a": 5.0, "b": 1.0, "c": 1.1}, 1)
    assert list(moved) == ["b", "c", "a"]
    assert (np.diff(list(moved.values())) >= 1).all()


class Encoder(nn.Module):
    """In place of timm's: the mean of each colour, and its name in what timm says of it."""

    def forward(self, images):
        self.seen = images
        return images.mean((2, 3))


CONFIG = {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.2), "interpolation": "bicubic"}


def test_an_encoder_sees_whole_images_in_its_own_size_and_units():
    images = torch.full((3, 3, 69, 69), 255, dtype=torch.uint8)
    images[1] = 51
    encoder = Encoder()
    features = encoders.encode(encoder, CONFIG, images)
    assert encoder.seen.shape == (3, 3, 32, 32)
    torch.testing.assert_close(features[0], torch.tensor([1.0, 1.2, 3.5]))
    torch.testing.assert_close(features[1], torch.tensor([-0.6, -0.4, -0.5]))


def test_without_timm_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs the package timm.*requirements-extra"):
        encoders.load_encoder("resnet18")


def test_the_study_runs_with_an_encoder_whose_features_are_kept(synthetic_run, tmp_path, monkeypatch, capsys):
    out, _ = synthetic_run
    for name in ("q1_data.pt", "q3_cnn.pt", "q3_cnn.json"):
        (tmp_path / name).symlink_to(out / name)
    loaded = []
    monkeypatch.setattr(
        encoders, "load_encoder", lambda name, weights: loaded.append(name) or (Encoder(), dict(CONFIG))
    )
    options = ["--seeds", "0,3", "--epochs", "2", "--head-epochs", "2", "--device", "cpu", "--encoder", "small"]
    monkeypatch.setattr(sys, "argv", ["transfer", "--out", str(tmp_path), *options])
    study.main()
    record = json.loads((tmp_path / "studies/transfer.json").read_text())
    whole = len(load_data(tmp_path)["transfer_train_labels"])
    assert record["sizes"] == [25, whole]
    assert set(record["accuracy"]) == {"frozen", "random", "tuned", "scratch", "encoder"}
    assert all(0 <= each["mean"] <= 1 for intervals in record["accuracy"].values() for each in intervals)
    for head in record["head"].values():
        assert head["separable_samples"] == 2 or head["train_loss_gap"]["mean"] >= 0
    assert (tmp_path / "studies/transfer.png").read_bytes().startswith(b"\x89PNG")
    assert "SYNTHETIC" in capsys.readouterr().out
    row = tables.transfer_tables(record)[3]
    assert row.startswith(f"| {whole} | {100 * record['accuracy']['frozen'][1]['mean']:.1f} %")
    [kept] = (tmp_path / "studies").glob("encoder-*.pt")
    before = kept.stat().st_mtime_ns
    encoder_results = json.loads((tmp_path / "studies/transfer_encoder/seed-3.json").read_text())
    monkeypatch.setattr(encoders, "encode", None)  # a second run does not compute them again
    study.main()
    assert kept.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "studies/transfer_encoder/seed-3.json").read_text()) == encoder_results

import json
import sys

import numpy as np
import pytest
import torch
from conftest import random_data
from torch import nn

from q2_fcn import make_fcn
from studies import inside


def data(count=40):
    images, labels = random_data(count)
    return {"main_test_images": images, "main_test_labels": labels, "mean": torch.tensor([1.0, 2, 3]),
            "std": torch.tensor([4.0, 5, 6])}  # fmt: skip


def test_shifted_crops_are_windows_off_the_centre():
    galaxies = data(3)
    for right, down in ((0, 0), (10, 0), (-10, 0), (0, 7), (0, -10)):
        crops = inside.crop_at(galaxies, "main", right, down)
        top, left = 10 + down, 10 + right
        window = galaxies["main_test_images"][:, :, top : top + 48, left : left + 48]
        expected = (window - galaxies["mean"].view(3, 1, 1)) / galaxies["std"].view(3, 1, 1)
        torch.testing.assert_close(crops, expected)


def test_nothing_changes_without_a_shift_or_for_a_network_blind_to_place():
    galaxies = data()
    torch.manual_seed(0)
    figures = inside.under_shifts(make_fcn(), galaxies)
    assert figures["changed"][0] == 0
    assert figures["changed"][-1] > 0
    blind = nn.Sequential(nn.Flatten(), nn.Linear(6912, 8))
    nn.init.zeros_(blind[1].weight)
    figures = inside.under_shifts(blind, galaxies)
    assert set(figures["changed"]) == {0.0}
    assert len(set(figures["accuracy"])) == 1


def test_the_decision_line_is_where_the_logits_are_equal():
    torch.manual_seed(0)
    features, head = torch.randn(50, 64), nn.Linear(64, 2)
    with torch.no_grad():
        plane = inside.features_in_a_plane(features, head)
        logits = head(features)
    torch.testing.assert_close(plane[:, 0], logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-5)
    assert ((plane[:, 0] > 0) == (logits.argmax(1) == 1)).all()
    # Across it, no direction is wider: the first principal component of what is left, by numpy.
    unit = (head.weight[1] - head.weight[0]).detach()
    unit = unit / unit.norm()
    rest = features - features.mean(0)
    rest = rest - (rest @ unit)[:, None] * unit
    widest = np.linalg.eigvalsh(np.cov(rest.numpy().T))[-1]
    assert plane[:, 1].var().item() == pytest.approx(widest, rel=1e-3)


def test_the_script_writes_its_pictures_and_values(synthetic_run, tmp_path, monkeypatch):
    out, _ = synthetic_run
    for name in ("q1_data", "q2_fcn", "q3_cnn", "q5_transfer"):
        (tmp_path / f"{name}.pt").symlink_to(out / f"{name}.pt")
    monkeypatch.setattr(sys, "argv", ["inside", "--out", str(tmp_path)])
    inside.main()
    record = json.loads((tmp_path / "studies/inside.json").read_text())
    labels = torch.load(out / "q1_data.pt", weights_only=True)["main_test_labels"]
    for mistakes in record["confident_mistakes"].values():
        probabilities = [probability for _, _, probability in mistakes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(predicted != labels[index] for index, predicted, _ in mistakes)
    assert {path.name for path in (tmp_path / "studies").glob("inside_*.png")} == {
        f"inside_{name}.png" for name in ("mistakes", "filters", "shifts", "features")}  # fmt: skip

import json
import sys

import numpy as np
import pytest
import torch
from conftest import random_data
from torch import nn

from q2_fcn import make_fcn
from studies import inside, shifts


def data(count=40):
    images, labels = random_data(count)
    return {"main_test_images": images, "main_test_labels": labels, "mean": torch.tensor([1.0, 2, 3]),
            "std": torch.tensor([4.0, 5, 6])}  # fmt: skip


def test_shifted_crops_are_windows_off_the_centre():
    galaxies = data(3)
    for right, down in ((0, 0), (10, 0), (-10, 0), (0, 7), (0, -10)):
        crops = shifts.crop_at(galaxies, "main", right, down)
        top, left = 10 + down, 10 + right
        window = galaxies["main_test_images"][:, :, top : top + 48, left : left + 48]
        expected = (window - galaxies["mean"].view(3, 1, 1)) / galaxies["std"].view(3, 1, 1)
        torch.testing.assert_close(crops, expected)


def shifts_of(network, galaxies, by=shifts.SHIFTS):
    predictions = shifts.shifted_predictions(network, galaxies, by)
    return shifts.under_shifts(predictions, galaxies["main_test_labels"])


@pytest.mark.parametrize(("size", "furthest"), [(48, 0), (49, 0), (50, 1), (67, 8), (68, 10), (69, 10), (256, 10)])
def test_the_furthest_shift_keeps_every_crop_within_the_images(size, furthest):
    images, labels = random_data(8, size)
    galaxies = {**data(8), "main_test_images": images, "main_test_labels": labels}
    possible = shifts.possible_shifts(galaxies)
    assert possible == [shift for shift in shifts.SHIFTS if shift <= furthest]
    figures = shifts_of(make_fcn(), galaxies, possible)
    assert len(figures["accuracy"]) == len(figures["changed"]) == len(possible)


def test_nothing_changes_without_a_shift_or_for_a_network_blind_to_place():
    galaxies = data()
    torch.manual_seed(0)
    figures = shifts_of(make_fcn(), galaxies)
    assert figures["changed"][0] == 0
    assert figures["changed"][-1] > 0
    blind = nn.Sequential(nn.Flatten(), nn.Linear(6912, 8))
    nn.init.zeros_(blind[1].weight)
    figures = shifts_of(blind, galaxies)
    assert set(figures["changed"]) == {0.0}
    assert len(set(figures["accuracy"])) == 1
    assert figures["distinct_predictions"] == 1


def test_networks_are_compared_image_by_image_at_the_furthest_shift():
    still = torch.zeros(len(shifts.SHIFTS), 4, 6, dtype=torch.int64)
    restless = still.clone()
    restless[-1, 0, :5] = 1  # five images change in one direction
    restless[1, :, 5] = 1  # and one, but not at the furthest shift
    assert shifts.compare_shifts(restless, still) == {"fcn_more": 5, "cnn_more": 0, "p_value": 2 * 0.5**5}
    assert shifts.compare_shifts(restless, restless) == {"fcn_more": 0, "cnn_more": 0, "p_value": 1}


@pytest.mark.parametrize(("changed", "paired", "says"), [
    ((0.3, 0.1), (90, 9, 1e-9), "30.0% of the FCN's predictions change and 10.0% of the CNN's: the FCN's change more"),
    ((0.1, 0.3), (9, 90, 1e-9), "the CNN's change more (sign test, p = 1e-09)"),
    ((0.3, 0.1), (51, 50, 0.92), "which changes more cannot be told (sign test, p = 0.92)"),
    ((0.1, 0.2), (90, 50, 0.001), "cannot be told"), ((0.2, 0.2), (90, 50, 0.001), "cannot be told")])  # fmt: skip
def test_the_answer_says_which_changes_more_only_where_share_and_test_agree(changed, paired, says):
    measured = {name: {"changed": [0, share]} for name, share in zip(("fcn", "cnn"), changed, strict=True)}
    paired = dict(zip(("fcn_more", "cnn_more", "p_value"), paired, strict=True))
    assert says in shifts.describe_changes(measured, paired, 10)


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


def test_images_too_small_for_the_furthest_shifts_use_the_others(synthetic_run, tmp_path, monkeypatch, capsys):
    out, _ = synthetic_run
    small = torch.load(out / "q1_data.pt", weights_only=True)
    small |= {key: value[..., :54, :54].clone() for key, value in small.items() if key.endswith("images")}
    torch.save(small, tmp_path / "q1_data.pt")
    for name in ("q2_fcn", "q3_cnn", "q5_transfer"):
        (tmp_path / f"{name}.pt").symlink_to(out / f"{name}.pt")
    monkeypatch.setattr(sys, "argv", ["inside", "--out", str(tmp_path)])
    inside.main()
    assert "with a shift of 3 pixels, the furthest in these images" in capsys.readouterr().out
    record = json.loads((tmp_path / "studies/inside.json").read_text())
    assert record["shifts"] == [0, 1, 2, 3]
    assert all(len(figures["changed"]) == 4 for figures in record["under_shifts"].values())

"""The discussion follows the figures: fed opposite ones, its claims turn round."""

import pytest

from common import discuss

FALLING = {"train_loss": [2.0, 1.5, 1.0], "test_loss": [2.0, 1.6, 1.2]}
OVERFIT = {"train_loss": [2.0, 1.0, 0.2], "test_loss": [1.5, 1.2, 2.0]}


def trained(accuracy, low, high, **more):
    return {
        "source": "file:efigi10.h5", "test_accuracy": accuracy, "test_accuracy_interval": [low, high], "test_loss": 0.9,
        "majority_accuracy": 0.30, "test_count": 500, "parameters": 178_226, "trainable_parameters": 130,
        "history": FALLING, **more,
    }  # fmt: skip


def comparison(fcn, cnn, p_value):
    return {
        "fcn_accuracy": fcn, "fcn_interval": [fcn - 0.04, fcn + 0.04], "fcn_parameters": 442_952,
        "cnn_accuracy": cnn, "cnn_interval": [cnn - 0.04, cnn + 0.04], "cnn_parameters": 178_616,
        "fcn_only": 20, "cnn_only": 60, "p_value": p_value,
    }  # fmt: skip


def test_overfitting_is_claimed_only_where_it_shows():
    assert "overfits from about epoch 2 on" in discuss.discuss_fcn(trained(0.6, 0.55, 0.65, history=OVERFIT))
    assert "does not overfit yet" in discuss.discuss_fcn(trained(0.6, 0.55, 0.65))


def test_the_fcn_is_held_against_the_commonest_class():
    assert "clearly more than" in discuss.discuss_fcn(trained(0.6, 0.55, 0.65))
    assert "not clearly more than" in discuss.discuss_fcn(trained(0.31, 0.27, 0.35))


def test_the_cnn_is_praised_only_where_it_wins():
    won = discuss.discuss_cnn(trained(0.8, 0.77, 0.83, comparison=comparison(0.6, 0.8, 1e-6)))
    assert "weight sharing), so what it learns" in won
    assert "2.5 times fewer parameters" in won
    for fcn, cnn, p_value in ((0.60, 0.62, 0.4), (0.8, 0.6, 1e-6)):
        lost = discuss.discuss_cnn(trained(cnn, cnn - 0.03, cnn + 0.03, comparison=comparison(fcn, cnn, p_value)))
        assert "bring no advantage" in lost
        assert "The CNN is better" not in lost
    assert "no fully connected network" in discuss.discuss_cnn(trained(0.8, 0.77, 0.83, comparison=None))


def inside(fcn_changed, cnn_changed):
    figures = (
        {"accuracy": [0.6, 0.5], "changed": [0, fcn_changed]},
        {"accuracy": [0.7, 0.72], "changed": [0, cnn_changed]},
    )
    return {"source": "file:x", "shifts": [0, 10], "under_shifts": dict(zip(("fcn", "cnn"), figures, strict=True))}


def test_the_steadier_network_under_shifts_is_the_one_measured_so():
    text = discuss.discuss_shifts(inside(0.3, 0.1))
    assert "30.0 % of the FCN's answers change and 10.0 % of the CNN's" in text
    assert "10.0 points lost and 2.0 points gained" in text
    assert "The CNN is the steadier" in text
    assert "The FCN is the steadier" in discuss.discuss_shifts(inside(0.1, 0.3))
    assert "equally steady" in discuss.discuss_shifts(inside(0.2, 0.2))


@pytest.mark.parametrize(
    ("low", "accuracy", "high", "verdict"),
    [(0.7, 0.75, 0.8, "do tell"), (0.28, 0.31, 0.34, "cannot be said"), (0.1, 0.2, 0.25, "of no use")],
)
def test_transfer_is_judged_against_the_commonest_class(low, accuracy, high, verdict):
    assert verdict in discuss.discuss_transfer(trained(accuracy, low, high, logistic_regression_accuracy=accuracy))


def test_logistic_regression_agrees_or_does_not():
    agreeing = discuss.discuss_transfer(trained(0.75, 0.7, 0.8, logistic_regression_accuracy=0.76))
    assert "the two agree" in agreeing
    differing = discuss.discuss_transfer(trained(0.75, 0.7, 0.8, logistic_regression_accuracy=0.9))
    assert "the two differ" in differing


def test_synthetic_results_are_called_so_and_the_courses_figures_stand_only_beside_galaxy10():
    records = [trained(0.6, 0.55, 0.65) for _ in range(3)]
    assert "64.6 %" not in discuss.headline(*records)
    for record in records:
        record["source"] = "galaxy10-sdss"
    assert "64.6 %, loss 0.924" in discuss.headline(*records)
    for record in records:
        record["source"] = "synthetic"
    assert "SYNTHETIC" in discuss.headline(*records).splitlines()[0]
    assert discuss.discuss_fcn(records[0]).startswith("**SYNTHETIC")


@pytest.mark.parametrize(("source", "name"), [
    ("galaxy10-sdss", "Galaxy Zoo 2"), ("galaxy10-decals", "DESI"), ("synthetic", "SYNTHETIC"),
    ("file:efigi10.h5", "Baillard"), ("file:mine.h5", "mine.h5")])  # fmt: skip
def test_thanks_go_to_those_whose_data_were_used(source, name):
    assert name in discuss.acknowledge({"source": source})


def test_missing_classes_are_said_to_be_missing():
    record = {"source": "file:x", "class_names": ["Round", "Cigar", "Boxy"], "counts": {"main_train": [900, 90, 0]},
              "normalised_mean": [0, 0, 0], "normalised_std": [1, 1, 1]}  # fmt: skip
    text = discuss.discuss_data(record)
    assert "Round has 900 images, Cigar 90, 10 times fewer" in text
    assert "Of Boxy there is none" in text

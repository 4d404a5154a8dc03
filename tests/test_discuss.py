"""Each sentence of the discussion, with a record that must get it and one that must not."""

import pytest

from submission import discuss

HISTORY = {"train_loss": [2.0, 1.5, 1.0], "test_loss": [2.0, 1.6, 1.2]}


def trained(accuracy, low, high, **more):
    return {
        "source": "file:efigi10.h5", "test_accuracy": accuracy, "test_accuracy_interval": [low, high], "test_loss": 0.9,
        "majority_accuracy": 0.30, "test_count": 500, "parameters": 178_226, "trainable_parameters": 130,
        "history": HISTORY, **more,
    }  # fmt: skip


def comparison(fcn, cnn, p_value):
    return {
        "fcn_accuracy": fcn, "fcn_interval": [fcn - 0.04, fcn + 0.04], "fcn_parameters": 442_952,
        "cnn_accuracy": cnn, "cnn_interval": [cnn - 0.04, cnn + 0.04], "cnn_parameters": 178_616,
        "fcn_only": 20, "cnn_only": 60, "p_value": p_value,
    }  # fmt: skip


def only(text, phrases, expected):
    """Hold a text against alternative phrases: it must have the expected one and none of the others."""
    return [phrase for phrase in phrases if phrase in text] == [expected]


@pytest.mark.parametrize(("low", "accuracy", "high", "against"), [
    (0.55, 0.60, 0.65, "above"), (0.27, 0.31, 0.35, "not distinguishable from"), (0.10, 0.15, 0.20, "below"),
])  # fmt: skip
def test_the_fcn_is_compared_with_the_majority_class(low, accuracy, high, against):
    text = discuss.discuss_fcn(trained(accuracy, low, high))
    assert f"{against} the 30.0 % of always predicting the majority class" in text
    assert only(text, ("above", "not distinguishable", "below"), against.removesuffix(" from"))
    assert "The test loss is lowest, 1.200" in text


@pytest.mark.parametrize(("fcn", "cnn", "p_value", "says"), [
    (0.6, 0.8, 1e-6, "consistent with locality"), (0.8, 0.6, 1e-6, "did not make the CNN better"),
    (0.60, 0.62, 0.4, "cannot be told from these test images"),
    (0.62, 0.60, 0.4, "cannot be told from these test images"),
])  # fmt: skip
def test_locality_and_weight_sharing_explain_only_a_cnn_that_is_better_and_only_as_a_possible_cause(
    fcn, cnn, p_value, says
):
    text = discuss.discuss_cnn(trained(cnn, cnn - 0.03, cnn + 0.03, comparison=comparison(fcn, cnn, p_value)))
    phrases = ("consistent with locality", "did not make the CNN better", "cannot be told from these test images")
    assert only(text, phrases, says)
    assert ("not isolated by a measurement" in text) == (says == "consistent with locality")


def test_the_cnn_is_compared_only_where_there_is_an_fcn():
    text = discuss.discuss_cnn(trained(0.8, 0.77, 0.83, comparison=None))
    assert "no fully connected network" in text
    assert "McNemar" not in text
    compared = discuss.discuss_cnn(trained(0.8, 0.77, 0.83, comparison=comparison(0.6, 0.8, 1e-6)))
    assert "no fully connected network" not in compared


def inside(fcn_changed, cnn_changed, fcn_more=0, cnn_more=0, p_value=1.0, distinct=(7, 7)):
    figures = (
        {"accuracy": [0.6, 0.5], "changed": [0, fcn_changed], "distinct_predictions": distinct[0]},
        {"accuracy": [0.7, 0.72], "changed": [0, cnn_changed], "distinct_predictions": distinct[1]},
    )
    return {
        "source": "file:x", "shifts": [0, 10], "under_shifts": dict(zip(("fcn", "cnn"), figures, strict=True)),
        "paired": {"fcn_more": fcn_more, "cnn_more": cnn_more, "p_value": p_value},
    }  # fmt: skip


SHIFTED = ("the CNN is steadier", "the FCN is steadier",
           "which of the two is steadier under translation cannot be told",
           "predicts a single class", "each predict a single class")  # fmt: skip


@pytest.mark.parametrize(("record", "says"), [
    (inside(0.3, 0.1, 120, 10, 1e-9), SHIFTED[0]), (inside(0.1, 0.3, 10, 120, 1e-9), SHIFTED[1]),
    (inside(0.3001, 0.3, 51, 50, 1.0), SHIFTED[2]), (inside(0.2, 0.2), SHIFTED[2]),
    (inside(0.2, 0.21, 90, 50, 0.001), SHIFTED[2]),  # the two measures contradict each other
    (inside(0, 0.3, 0, 90, 1e-9, distinct=(1, 7)), SHIFTED[3]),
    (inside(0.3, 0, 90, 0, 1e-9, distinct=(7, 1)), SHIFTED[3]),
    (inside(0, 0, distinct=(1, 1)), SHIFTED[4]),
])  # fmt: skip
def test_a_network_is_called_steadier_under_shifts_only_where_that_was_measured(record, says):
    text = discuss.discuss_shifts(record)
    assert only(text, SHIFTED, says)
    assert ("consistent with its weight sharing" in text) == (says == SHIFTED[0])
    assert ("why the FCN is steadier was not measured" in text) == (says == SHIFTED[1])


def test_images_that_leave_no_room_for_a_shift_are_said_to_be_too_small():
    record = inside(0.3, 0.1, 120, 10, 1e-9)
    assert "too small to shift" not in discuss.discuss_shifts(record)
    text = discuss.discuss_shifts(record | {"shifts": [0]})
    assert text == "The images are too small to shift the crops within them."


def test_shifts_are_told_with_the_shares_and_the_accuracies():
    text = discuss.discuss_shifts(inside(0.3, 0.1, 120, 10, 1e-9))
    assert "30.0 % of the FCN's predictions change and 10.0 % of the CNN's" in text
    assert "10.0 points lost, 2.0 points gained" in text
    old = inside(0.3, 0.1)
    del old["paired"]  # a record of an earlier version says no more
    assert discuss.discuss_shifts(old) in text


FEATURES = ("help to tell the two new ones apart", "but the logistic regression on them does", "cannot be told from it",
            "cannot be told from these images")  # fmt: skip


@pytest.mark.parametrize(("low", "accuracy", "high", "logistic", "says"), [
    (0.7, 0.75, 0.8, 0.75, FEATURES[0]), (0.7, 0.75, 0.8, 0.2, FEATURES[0]), (0.28, 0.31, 0.34, 0.8, FEATURES[1]),
    (0.1, 0.2, 0.25, 0.8, FEATURES[1]), (0.1, 0.2, 0.25, 0.2, FEATURES[2]), (0.28, 0.31, 0.34, 0.3, FEATURES[3]),
])  # fmt: skip
def test_features_are_judged_by_both_classifiers_against_the_majority_class(low, accuracy, high, logistic, says):
    text = discuss.discuss_transfer(trained(accuracy, low, high, logistic_regression_accuracy=logistic))
    assert only(text, FEATURES, says)
    assert "of no use" not in text
    assert f"logistic regression on the same features reaches {logistic:.1%}" in text


def test_the_number_of_classes_behind_the_features_is_told_only_where_it_is_known():
    known = trained(0.75, 0.7, 0.8, logistic_regression_accuracy=0.75, backbone_classes=7)
    assert "features learnt on 7 classes" in discuss.discuss_transfer(known)
    for unknown in ({}, {"backbone_classes": None}):
        given = trained(0.75, 0.7, 0.8, logistic_regression_accuracy=0.75, **unknown)
        assert "features of the given backbone" in discuss.discuss_transfer(given)
        assert "learnt on" not in discuss.discuss_transfer(given)


def test_the_backbone_is_called_unchanged_only_where_its_hashes_are_equal():
    values = {"logistic_regression_accuracy": 0.75, "backbone_sha256_before": "a"}
    same = discuss.discuss_transfer(trained(0.75, 0.7, 0.8, **values, backbone_sha256_after="a"))
    assert "the backbone's are unchanged, bit for bit" in same
    for other in ({"backbone_sha256_after": "b"}, {}):
        assert "unchanged" not in discuss.discuss_transfer(trained(0.75, 0.7, 0.8, **values, **other))


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
    assert "SYNTHETIC" not in discuss.headline(*(trained(0.6, 0.55, 0.65) for _ in range(3)))
    assert "SYNTHETIC" not in discuss.discuss_fcn(trained(0.6, 0.55, 0.65))


@pytest.mark.parametrize(("source", "name"), [
    ("galaxy10-sdss", "Galaxy Zoo 2"), ("galaxy10-decals", "DESI"), ("synthetic", "SYNTHETIC"),
    ("file:efigi10.h5", "Baillard"), ("file:mine.h5", "mine.h5")])  # fmt: skip
def test_thanks_go_to_those_whose_data_were_used(source, name):
    assert name in discuss.acknowledge({"source": source})
    others = {"Galaxy Zoo 2", "DESI", "SYNTHETIC", "Baillard", "mine.h5"} - {name}
    if source == "synthetic":  # made with the names and counts of Galaxy10 SDSS
        others.remove("Galaxy Zoo 2")
    assert not any(other in discuss.acknowledge({"source": source}) for other in others)


@pytest.mark.parametrize(("counts", "says", "not_said"), [
    ([900, 90, 0], ("Round has 900 images, Cigar 90, a ratio of 10.0", "no images of Boxy."), "of each class"),
    ([900, 0, 0], ("no images of Cigar; Boxy.",), "unbalanced"),
    ([120, 100, 110], ("Round has 120 images, Cigar 100, a ratio of 1.2",), "no images of"),
    ([100, 100, 100], ("has 100 images of each class",), "unbalanced"),
])  # fmt: skip
def test_the_training_set_is_called_unbalanced_only_where_it_is_and_missing_classes_are_named(counts, says, not_said):
    record = {"source": "file:x", "class_names": ["Round", "Cigar", "Boxy"], "counts": {"main_train": counts},
              "normalised_mean": [0, 0, 0], "normalised_std": [1, 1, 1]}  # fmt: skip
    text = discuss.discuss_data(record)
    assert all(phrase in text for phrase in says)
    assert not_said not in text


def test_an_undefined_share_is_a_dash():
    assert discuss.percent(None) == "–"
    assert discuss.percent(0.5) == "50.0 %"

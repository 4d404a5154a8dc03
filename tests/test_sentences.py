"""Check the conclusions of the sentences on results with an obvious answer."""

import json
import re

from common import metrics, sentences
from common.galaxies.facts import BRANCHES, CLASS_NAMES
from common.storage.artifacts import without_nan

import numpy as np
import pytest
from conftest import run_well
from sklearn.metrics import log_loss


def curves(train, test, final=(0.9, 1.0), errors=(0.01, 0.05)):
    """Return a record as `training_record` does, with these losses; final: the final network's losses."""
    history = {"train_loss": list(train), "test_loss": list(test), "test_accuracy": [0.5] * len(test)}
    names = ("final_train_loss", "test_loss")
    values = dict(zip(names, final, strict=True))
    return {"history": history} | values | {f"{name}_error": e for name, e in zip(names, errors, strict=True)}


def steps(*means, length=10):
    """Return losses with these means per fifth, with a little scatter."""
    return np.repeat(means, length) * (1 + 1e-3 * np.tile([1, -1], len(means) * length // 2))


def noise(scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, 50)


FALLING = steps(1.0, 0.8, 0.7, 0.65, 0.6)
CURVES = {
    "falls by 1% each fifth": (curves(FALLING, steps(1, 0.99, 0.99**2, 0.99**3, 0.99**4)), {"still falling"},
                               {"level", "rising", "its scatter"}),
    "the issue's": (curves(FALLING, steps(1.021, 0.954, 0.923, 0.917, 0.905)), {"still falling"}, {"level"}),
    "level": (curves(FALLING, steps(1.0, 0.8, 0.7, 0.7, 0.7)), {"0.700 over the 10 before: level"},
              {"rising", "its scatter"}),
    "rises while training falls": (curves(FALLING, steps(1, 0.8, 0.7, 0.75, 0.9), final=(0.3, 0.9)),
                                   {"before: rising", "overfitting", "lowest fifth, which averages 0.700,"},
                                   {"no sign"}),
    "rises, though the final losses agree": (curves(FALLING, steps(1, 0.8, 0.7, 0.75, 0.9), errors=(0.1, 0.2)),
                                             {"overfitting", "within its margin"}, {"no sign"}),
    "noisy": (curves(FALLING, 0.8 + noise(0.1)), {"by less than its scatter"},
              {"fell: overfitting"}),
    "diverges": (curves(steps(1, 0.9, 2, 3, 4), steps(1, 0.9, 2, 3, 4)),
                 {"averages 4.000 over the last 10 epochs, 3.000 over the 10 before: rising"},
                 {"overfitting"}),
    "rises at once": (curves(FALLING, np.linspace(1, 1.4, 50), final=(0.1, 1.4)),
                      {"lowest after the first epoch, 1.000", "overfitting"}, {"still falling", "no sign"}),
    "fits both": (curves(FALLING, FALLING, final=(0.59, 0.6)), {"no sign of overfitting"}, {"fits the"}),
    "fits training better": (curves(FALLING, FALLING, final=(0.2, 0.6)), {"it fits the training images better"},
                             {"no sign"}),
    "fits test better": (curves(FALLING, FALLING, final=(0.9, 0.6)), {"it fits the test images better"}, {"no sign"}),
    "ten epochs": (curves(steps(1, 0.9, 0.8, 0.7, 0.6, length=2), steps(1, 0.9, 0.8, 0.7, 0.6, length=2)),
                   {"over the last 2 epochs", "still falling", "Over the last 10 epochs"}, {"level"}),
    "nine epochs": (curves([1.0] * 9, np.linspace(1, 0.5, 9)), {"to a minimum of 0.500 after epoch 9, the last"},
                    {"averages", "falling"}),
    "one epoch": (curves([1.0], [1.2]), {"after one epoch is 1.200"},
                  {"averages", "lowest", "minimum", "lies between", "falls"}),
    "one test image": (curves([1.0], [1.2], errors=(0.01, np.nan)), {"one epoch"}, {"final network", "overfit"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_curves_with_an_obvious_reading_are_described_so(name):
    record, must, must_not = CURVES[name]
    text = sentences.describe_curves(record)
    assert {words for words in must if words not in text} == set(), text
    assert {words for words in must_not if words in text} == set(), text


@pytest.mark.parametrize("seed", range(20))
def test_scatter_alone_is_not_overfitting(seed):
    text = sentences.describe_curves(curves(FALLING, 0.8 + noise(0.03, seed)))
    assert "fell: overfitting" not in text, text


def test_the_margin_is_for_the_difference_of_both_losses():
    text = sentences.describe_gap(curves([1.0], [1.0], final=(0.520, 0.545), errors=(0.003, 0.0186)))
    assert "0.520 on the training and 0.545 on the test images, a difference within its margin of 0.037" in text
    text = sentences.describe_gap(curves([1.0], [1.0], final=(0.500, 0.545), errors=(0.003, 0.0186)))
    assert "a difference of 0.045 ± 0.037: it fits the training images better" in text


def confusion(matrix, train_counts=(2860, 5781, 5199, 288, 1267, 14, 487, 926)):
    """Return Q4's record of one network with this confusion matrix."""
    matrix = np.array(matrix)
    within, expected = metrics.errors_within_branch(matrix, BRANCHES[CLASS_NAMES])
    results = {"confusion": matrix.tolist(), "within_branch": within, "within_branch_expected": expected}
    results |= metrics.per_class(matrix) | {"recall_interval": metrics.recall_intervals(matrix)}
    record = {"class_names": list(CLASS_NAMES[:8]), "train_counts": list(train_counts)}
    return without_nan(record | {"test_counts": matrix.sum(1).tolist(), "models": {"cnn": results}})


def described(matrix, **counts):
    return sentences.describe_confusion(confusion(matrix, **counts), "cnn")


def cells(**changes):
    """Return a diagonal confusion matrix, 100 images per class; `c1_2=40` moves 40 of row 1 to column 2."""
    matrix = 100 * np.eye(8, dtype=int)
    for name, count in changes.items():
        row, column = map(int, name[1:].split("_"))
        matrix[row, row] -= count
        matrix[row, column] += count
    return matrix


def test_two_neighbours_confused_in_both_directions_are_similar_and_named():
    text = described(cells(c1_2=40, c2_1=30, c0_4=2))
    assert "similar classes are confused more often than class frequencies imply. 70 of 72 errors (97.2%)" in text
    assert (
        "Largest groups of errors: 40 of 100 Completely round as in-between round; 30 of 100 in-between round as"
        in text
    )


def test_errors_across_the_branches_are_not_similarity():
    text = described(cells(c1_4=40, c4_0=30, c0_2=20))
    assert "not confused more often than class frequencies imply. 0 of 90 errors (0.0%)" in text


def test_a_rare_class_swallowed_by_a_frequent_one_is_imbalance():
    matrix = cells(c5_4=100)
    text = described(matrix)
    assert "rare classes are recognized less often. The 4 rarest (14 to 926 training images)" in text
    assert "a recall of 75.0% (95% interval 70.5 to 79.0%), the other 4 100.0%" in text
    assert "Most under-predicted: Boxy Bulge (never predicted, 100 test images)." in text
    assert "100 of 100 Boxy Bulge as Rounded Bulge" in text


def test_small_numbers_of_predictions_are_written_as_words():
    for count, words in ((1, "once"), (2, "twice"), (3, "3 times")):
        assert f"Boxy Bulge (predicted {words}, 100 test images)" in described(cells(c5_4=100 - count))


def test_frequent_classes_that_fail_are_not_imbalance():
    text = described(cells(c1_2=50, c2_1=50))
    assert "Imbalance: rare classes are not recognized less often" in text


def test_classes_of_equal_size_are_not_imbalance():
    text = described(cells(c5_4=100), train_counts=(66, 66, 67, 66, 66, 66, 65, 66))
    assert "Imbalance: none; each class has about the same number of training images (65 to 67)." in text
    assert "rare" not in text


def test_a_perfect_network_makes_no_errors():
    assert described(cells()) == "The CNN misclassifies 0 of 800 test images."


def test_an_absent_class_is_named_and_not_counted():
    matrix = cells(c1_2=40)
    matrix[5] = 0
    text = described(matrix, train_counts=(605, 129, 461, 70, 394, 0, 132, 309))
    assert "There are no test images of Disk, Edge-on, Boxy Bulge." in text
    assert "The 3 rarest (70 to 132 training images)" in text
    assert "Boxy" not in text.split("\n", 1)[1]


def test_classes_without_a_known_tree_get_no_sentence_on_similarity():
    record = confusion(cells(c1_2=40))
    record["models"]["cnn"] |= {"within_branch": None, "within_branch_expected": None}
    text = sentences.describe_confusion(record, "cnn")
    assert "Similarity" not in text
    assert "Imbalance: " in text


def test_one_test_image_gives_one_error_and_no_comparison_of_halves():
    matrix = np.zeros((8, 8), dtype=int)
    matrix[3, 2] = 1
    text = described(matrix)
    assert "misclassifies 1 of 1 test image." in text
    assert "Imbalance" not in text
    assert "1 of 1 error (100.0%) stay" in text
    assert "1 of 1 Cigar shaped as in-between round." in text


def compared(fcn, cnn, p_value):
    comparison = {"fcn_accuracy": fcn, "cnn_accuracy": cnn, "fcn_parameters": 442952, "cnn_parameters": 178616}
    return sentences.describe_comparison(comparison | {"fcn_only": 10, "cnn_only": 1, "p_value": p_value})


def test_the_comparison_agrees_with_mcnemars_test():
    text = compared(0.60, 0.79, 1e-20)
    assert "The CNN (178,616 parameters) classifies 79.0% of" in text
    assert "the FCN (442,952) 60.0%: a difference of +19.0 points" in text
    assert "is significant (p = 1e-20)" in text
    assert "The CNN alone is correct on 1 image, the FCN alone on 10" in text
    assert "is not significant (p = 0.3)" in compared(0.60, 0.61, 0.3)
    assert "-19.0 points" in compared(0.79, 0.60, 1e-20)
    rounded = "72.8% of the test images correctly, the FCN (442,952) 65.1%: a difference of +7.7"
    assert rounded in compared(0.6514, 0.7276, 0.01)


def test_the_reason_is_given_only_if_the_cnn_is_significantly_better():
    assert sentences.REASON in compared(0.60, 0.79, 1e-20)
    assert sentences.REASON not in compared(0.60, 0.61, 0.3)
    assert sentences.REASON not in compared(0.79, 0.60, 1e-20)


def test_the_transfer_is_compared_with_an_untrained_backbone():
    optimum = {"accuracy": 0.695, "accuracy_interval": (0.647, 0.739), "agreement": 0.912}
    record = {
        "logistic_regression": optimum | {"train_loss": 0.56, "head_train_loss": 0.573},
        "untrained_backbone": {"accuracy": 0.648, "accuracy_interval": (0.598, 0.694)},
    }
    text = sentences.describe_transfer(record)
    assert "reaches 69.5% (64.7 to 73.9%) and agrees with the head on 91.2%" in text
    assert "its loss on all training crops is 0.560, the head's 0.573" in text
    assert "untrained backbone it reaches 64.8% (59.8 to 69.4%): a difference of +4.7" in text


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """Return the records and the output of a run with default settings on 600 synthetic galaxies."""
    out = tmp_path_factory.mktemp("default")
    printed = {"q1_data": run_well("q1_data.py", "--source", "synthetic", "--count", 600, "--out", out)}
    for script in ("q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer"):
        printed[script] = run_well(f"{script}.py", "--device", "cpu", "--out", out)
    return {script: json.loads((out / f"{script}.json").read_text()) for script in printed}, printed


def test_the_sentences_of_a_default_run_match_its_records(default_run):
    records, printed = default_run
    for script in ("q2_fcn", "q3_cnn", "q5_transfer"):
        record, text = records[script], printed[script]
        history = record["history"]
        test, accuracies = history["test_loss"], [100 * each for each in history["test_accuracy"]]
        best = int(np.argmin(test))
        assert f"falls from {test[0]:.3f} to a minimum of {test[best]:.3f} after epoch {best + 1}" in text
        assert f"between {min(accuracies[-10:]):.1f} and {max(accuracies[-10:]):.1f}%" in text
        last, before = re.search(r"It averages ([\d.]+) over the last \d+ epochs, ([\d.]+) over the", text).groups()
        length = len(test) // 5
        assert float(last) == pytest.approx(np.mean(test[-length:]), abs=5e-4)
        assert float(before) == pytest.approx(np.mean(test[-2 * length : -length]), abs=5e-4)
        change = float(last) / float(before) - 1
        if abs(change) > 0.011:
            assert f"{before} over the {length} before: {'still falling' if change < 0 else 'rising'}" in text
        assert text.index("test accuracy") < text.index("The test loss falls")  # the result comes first
        assert f"test accuracy {record['test_accuracy']:.2%} on {record['test_count']:,} SYNTHETIC images" in text
    comparison = records["q3_cnn"]["comparison"]
    cnn, fcn = (100 * records[script]["test_accuracy"] for script in ("q3_cnn", "q2_fcn"))
    points = cnn - fcn
    assert f"a difference of {round(cnn, 1) - round(fcn, 1):+.1f} points" in printed["q3_cnn"]
    only = comparison["cnn_only"] - comparison["fcn_only"]
    assert only == round(points / 100 * records["q3_cnn"]["test_count"])
    for name, results in records["q4_confusion"]["models"].items():
        matrix = np.array(results["confusion"])
        wrong = matrix.sum() - np.trace(matrix)
        assert f"The {name.upper()} misclassifies {wrong} of {matrix.sum()} test images" in printed["q4_confusion"]
        largest = (matrix - np.diag(np.diag(matrix))).max()
        assert f"Largest groups of errors: {largest} of " in printed["q4_confusion"]
    transfer = records["q5_transfer"]
    trained, untrained = (
        round(100 * transfer[key]["accuracy"], 1) for key in ("logistic_regression", "untrained_backbone")
    )
    assert f"a difference of {trained - untrained:+.1f} points" in printed["q5_transfer"]


def test_the_standard_error_of_a_loss_is_over_images():
    from common.train import loss_error

    import torch

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 8, generator=generator), torch.arange(50) % 8
    losses = [-logits[i].double().log_softmax(0)[labels[i]].item() for i in range(50)]
    assert np.mean(losses) == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=range(8)))
    assert loss_error(np.mean(losses), logits, labels) == pytest.approx(np.std(losses, ddof=1) / np.sqrt(50))
    assert np.isnan(loss_error(losses[0], logits[:1], labels[:1]))
    assert np.isnan(loss_error(np.mean(losses) + 0.1, logits, labels))  # a different criterion

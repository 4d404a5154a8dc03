"""The marks of the course: what right variants and known mistakes of each question cost."""

import os
import re

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common.galaxies.synthetic import write_synthetic
from course.build import source_cells

import matplotlib.pyplot as plt

BY_HAND = 6.5
# From here to there the pictures are drawn; most runs skip that, which takes half of the time.
PICTURE = re.compile(r"figure, .*?plt\.show\(\)", re.DOTALL)


@pytest.fixture(scope="module")
def marking(tmp_path_factory):
    """A folder with a small file, and the environment in which a submission is marked."""
    folder = tmp_path_factory.mktemp("marking")
    write_synthetic(folder / "marking.h5", 240, 0)
    before, place = dict(os.environ), os.getcwd()
    os.environ |= {"GALAXY10_FILE": str(folder / "marking.h5"), "GALAXY10_EPOCHS": "1", "MPLBACKEND": "Agg"}
    os.chdir(folder)
    yield folder
    os.chdir(place)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def cells():
    """The cells of the assignment with solutions and tests."""
    return source_cells()


def failures(cells, changes=(), leave_out=(), draw=False):
    """Run the notebook's cells with `changes` to its solutions, (old, new) pairs; return what those that fail said, by cell.

    leave_out: words of the solutions that are not handed in.
    """
    failed, names, changes = {}, {"__name__": "__main__"}, list(changes)
    for cell in cells:
        if cell.cell_type != "code":
            continue
        options, source = cell.metadata["nbgrader"], cell.source
        if options["solution"]:
            for old, new in list(changes):
                if old in source:
                    source = source.replace(old, new)
                    changes.remove((old, new))
            if any(words in source for words in leave_out):
                source = ""
            if not draw:
                source = PICTURE.sub("pass", source)
        try:
            exec(compile(source, options["grade_id"], "exec"), names)
        except BaseException as error:
            failed[options["grade_id"]] = str(error)  # the error itself would keep all that its cell can see
    plt.close("all")
    names.clear()
    assert not changes, f"nothing to change: {changes}"
    return failed


def lost(cells, failed):
    """Return the marked ones of the cells that failed."""
    return [cell.metadata["nbgrader"]["grade_id"] for cell in cells if cell.metadata["nbgrader"]["grade"]
            and cell.metadata["nbgrader"]["grade_id"] in failed]  # fmt: skip


def test_the_solution_runs_without_a_failure_and_passes_its_own_checks(cells, marking, capsys):
    assert failures(cells, draw=True) == {}
    printed = capsys.readouterr().out
    assert all(f"The checks of question {number} pass." in printed for number in range(1, 6))


def test_the_untouched_skeleton_loses_all_points_of_the_tests(cells, marking):
    marked = [cell for cell in cells if cell.cell_type == "code" and cell.metadata["nbgrader"]["grade"]]
    failed = failures(cells, leave_out=("",))
    assert lost(cells, failed) == [cell.metadata["nbgrader"]["grade_id"] for cell in marked]
    assert str(failed["q3_check"]) == "cnn_backbone is missing: was it renamed? Otherwise its cell has not run."


def test_the_points_are_those_of_the_assignment(cells):
    points, by_hand = {}, 0
    for cell in cells:
        options = cell.metadata["nbgrader"]
        if options["grade"]:
            question = options["grade_id"][:2]
            points[question] = points.get(question, 0) + options["points"]
            assert options["points"] in (0.5, 1)
            by_hand += options["points"] * (cell.cell_type == "markdown")
    assert points == {"q1": 5, "q2": 5, "q3": 5, "q4": 2, "q5": 3}
    assert by_hand == BY_HAND


# Independent variants run together, in one notebook.
VARIANTS = {
    "divided by 255 from the start, split at random, means over batches, requires_grad_": [
        ("counts = torch.bincount(labels", "images = images / 255\ncounts = torch.bincount(labels"),
        (", stratify=labels[indices], random_state=SEED", ""),
        ("loss_sum += loss.detach() * len(target)", "loss_sum += loss.detach()"), ("count += len(target)", "count += 1"),
        ("for parameter in cnn_backbone.parameters():\n    parameter.requires_grad = False",
         "cnn_backbone.requires_grad_(False)"),
    ],
    "split in the file's order, accuracy in percent, a copy of the backbone": [
        ("return train_test_split(indices, train_size=train_size, stratify=labels[indices], random_state=SEED)",
         "return indices[:train_size], indices[train_size:]"),
        ("(logits.argmax(1) == target).float().mean().item()", "100 * (logits.argmax(1) == target).float().mean().item()"),
        ("nn.Sequential(cnn_backbone, transfer_head)",
         "nn.Sequential(__import__('copy').deepcopy(cnn_backbone), transfer_head)"),
    ],
    "a matrix counted by hand, histories of tensors, mean and std as lists, networks as classes": [
        ("cnn_confusion = count_confusion(cnn, main_test_loader)",
         "logits, target = predict(cnn, main_test_loader)\ncnn_confusion = torch.zeros(8, 8, dtype=int)\n"
         "for true, found in zip(target, logits.argmax(1)):\n    cnn_confusion[true, found] += 1\n"
         "cnn_confusion = cnn_confusion.numpy()"),
        ("float(loss_sum / count)", "loss_sum / count"), ("criterion(logits, target).item()", "criterion(logits, target)"),
        ("mean, std = first_crops.mean((0, 2, 3)), first_crops.std((0, 2, 3))",
         "mean, std = first_crops.mean((0, 2, 3)), first_crops.std((0, 2, 3))\n"
         "mean, std = mean.tolist(), std.tolist()"),
        ('print("mean", mean.numpy().round(2), "std", std.numpy().round(2))', ""),
        ("fcn = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 64), nn.ReLU(), nn.Linear(64, 8)).to(device)",
         "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
         "        self.a, self.b = nn.Linear(6912, 64), nn.Linear(64, 8)\n\n"
         "    def forward(self, x):\n        return self.b(self.a(x.flatten(1)).relu())\n\n\nfcn = Net().to(device)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("names", VARIANTS)
def test_right_variants_get_all_points(names, cells, marking):
    assert failures(cells, VARIANTS[names]) == {}


FROZEN = "for parameter in cnn_backbone.parameters():\n    parameter.requires_grad = False"
FCN = "nn.Linear(3 * 48 * 48, 64), nn.ReLU(), nn.Linear(64, 8)"
MISTAKES = {
    "statistics of uncropped images": (["q1_statistics"], [("crop(image.float())", "image.float()")]),
    "labels 8 and 9 kept": (["q1_labels"], [("labels[transfer_train_indices] - 8", "labels[transfer_train_indices]"),
                                            ("labels[transfer_test_indices] - 8", "labels[transfer_test_indices]")]),
    "wrong sizes": (["q1_sizes"], [("split(is_main, MAIN_TRAIN)", "split(is_main, MAIN_TRAIN - 50)")]),
    "overlapping sets": (["q1_disjoint"], [("main_train_indices, main_test_indices = split(is_main, MAIN_TRAIN)",
                                            "main_train_indices, main_test_indices = split(is_main, MAIN_TRAIN)\n"
                                            "main_test_indices = main_train_indices[: len(main_test_indices)]")]),
    "test loader shuffled": (["q1_test_loader"], [("(main_test, batch_size=64)", "(main_test, batch_size=64, shuffle=True)")]),
    "training loader not shuffled": (["q1_train_loader"], [("(main_train, batch_size=64, shuffle=True)",
                                                            "(main_train, batch_size=64)")]),
    "not normalised": (["q1_transform"], [(", transforms.Normalize(mean, std)]", "]")]),
    "32 hidden units": (["q2_layers"], [(FCN, "nn.Linear(3 * 48 * 48, 32), nn.ReLU(), nn.Linear(32, 8)")]),
    "no ReLU in the FCN": (["q2_relu"], [(FCN, "nn.Linear(3 * 48 * 48, 64), nn.Linear(64, 8)")]),
    "softmax in the FCN": (["q2_logits"], [(FCN, f"{FCN}, nn.Softmax(1)")]),
    "softmax in train": (["q2_logits"], [("criterion(model(batch), target)", "criterion(model(batch).softmax(1), target)")]),
    "no zero_grad": (["q2_gradients"], [("            optimizer.zero_grad()\n", "")]),
    "SGD": (["q2_optimizer"], [("torch.optim.Adam(fcn.parameters()", "torch.optim.SGD(fcn.parameters()")]),
    "a rate of 0.1": (["q2_optimizer"], [("lr=0.001", "lr=0.1")]),
    "only the last batch logged": (["q2_history"], [("float(loss_sum / count)", "float(loss)")]),
    "trained on test images": (["q2_training_images"], [("for batch, target in train_loader:",
                                                         "for batch, target in test_loader:")]),
    "kernel 3": (["q3_convolutions"], [("nn.Conv2d(8, 16, kernel_size=5)", "nn.Conv2d(8, 16, kernel_size=3)"),
                                       ("nn.Linear(16 * 9 * 9, 128)", "nn.Linear(16 * 10 * 10, 128)")]),
    "no ReLU after the features": (["q3_pooling"], [("        nn.Linear(128, 64),\n        nn.ReLU(),\n",
                                                     "        nn.Linear(128, 64),\n")]),
    "matrix transposed": (["q4_matrices"], [("confusion_matrix(target, logits.argmax(1), labels",
                                             "confusion_matrix(logits.argmax(1), target, labels")]),
    "matrix of training images": (["q4_matrices"], [("count_confusion(cnn, main_test_loader)",
                                                     "count_confusion(cnn, main_train_loader)")]),
    "test counts for training counts": (["q4_counts"], [("train_counts = torch.bincount(main_train.target",
                                                         "train_counts = torch.bincount(main_test.target")]),
    "backbone not frozen": (["q5_frozen"], [(FROZEN, "pass")]),
    "all parameters given to Adam": (["q5_optimizer"], [("torch.optim.Adam(transfer_head.parameters()",
                                                         "torch.optim.Adam(transfer_model.parameters()")]),
    "an untrained backbone": (["q5_backbone"], [(FROZEN, f"cnn_backbone = make_backbone()\n{FROZEN}")]),
    "a head of 8": (["q5_head"], [("transfer_head = nn.Linear(64, 2)", "transfer_head = nn.Linear(64, 8)")]),
}  # fmt: skip


# What the student's own check of the question says, where it can find the mistake.
SEEN = {
    "labels 8 and 9 kept": "transfer_train has the labels [8, 9]",
    "wrong sizes": "main_train has 149 images, not 199",
    "overlapping sets": "26 images are both in main_train and in main_test",
    "not normalised": ": does the transform end in transforms.Normalize?",
    "32 hidden units": "fcn has 221,480 parameters, not 442,952",
    "kernel 3": "backbone and head have [214960, 520] parameters, not 178,096 and 520",
    "matrix of training images": "cnn_confusion counts 199 images, not each of the 26 test images once",
    "backbone not frozen": "178,226 parameters get gradients, not only the 130 of the head: is the backbone frozen?",
    "all parameters given to Adam": "transfer_optimizer has 178,226 parameters, not the 130 of the head",
    "a head of 8": "transfer_model makes outputs of shape (2, 8) of two crops, not 2 logits each: (2, 2)",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_loses_its_own_points_and_no_others(name, cells, marking):
    points, changes = MISTAKES[name]
    failed = failures(cells, changes)
    assert lost(cells, failed) == points
    said = str(failed.get(f"{points[0][:2]}_check", ""))
    assert said.endswith(SEEN[name]) if name in SEEN else said == ""


WITHOUT = {
    "q1": ([], ("transform = transforms.Compose", "main_train_loader =", "first_crops")),
    "q2": ([("def train(", "def my_train("), ("fcn = nn.Sequential(", "my_fcn = nn.Sequential(")], ()),
    "q3": ([("untrained_backbone, control = make_backbone()", "raise SystemExit\nmake_backbone()")],
           ("def make_backbone", "cnn_history = train")),
    "q4": ([], ("cnn_confusion", "train_counts =")),
}  # fmt: skip


@pytest.mark.parametrize("question", WITHOUT)
def test_a_question_that_failed_costs_no_points_of_another(question, cells, marking):
    changes, leave_out = WITHOUT[question]
    found = lost(cells, failures(cells, changes, leave_out))
    assert len(found) >= 2
    assert {cell[:2] for cell in found} == {question}

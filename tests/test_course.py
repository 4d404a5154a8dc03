"""The marks of the course: what right variants and known mistakes of each question cost."""

import os
import re
import sys
import urllib.request
from unittest.mock import patch

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common.galaxies.synthetic import write_synthetic
from course.build import source_cells
from course.judge import Undecided, Watch, fit_numbers, stand_in

import h5py
import matplotlib.pyplot as plt

BY_HAND = 6.5
# From here to there the pictures are drawn; most runs skip that, which takes half of the time.
PICTURE = re.compile(r"figure, .*?plt\.show\(\)", re.DOTALL)


@pytest.fixture(scope="module")
def marking(tmp_path_factory):
    """A folder with a small file, and the environment in which a submission is marked."""
    folder = tmp_path_factory.mktemp("marking")
    write_synthetic(folder / "marking.h5", 400, 0, least=12)
    before, place = dict(os.environ), os.getcwd()
    os.environ |= {"GALAXY10_FILE": str(folder / "marking.h5"), "GALAXY10_EPOCHS": "2", "MPLBACKEND": "Agg"}
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
    file, epochs = os.environ["GALAXY10_FILE"], int(os.environ["GALAXY10_EPOCHS"])
    with Watch(names, file) as run:
        names["_mark"] = run.mark
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
                    source = "# your code here"
                if not draw:
                    source = PICTURE.sub("pass", source)
            try:
                exec(compile(fit_numbers(source, run.counts, epochs), options["grade_id"], "exec"), names)
            except BaseException as error:  # the error itself would keep all that its cell can see
                failed[options["grade_id"]] = f"{'undecided: ' * isinstance(error, Undecided)}{error}"
            run.after_cell(source)
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
    assert not any(each.startswith("undecided") for each in failed.values())
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


FCN = "nn.Linear(3 * 48 * 48, 64), nn.ReLU(), nn.Linear(64, 8)"
FCN_TRAINING = "fcn_history = train(fcn, fcn_optimizer, main_train_loader, main_test_loader, EPOCHS)"
CNN_TRAINING = "cnn_history = train(cnn, cnn_optimizer, main_train_loader, main_test_loader, EPOCHS)"
TRANSFER_TRAINING = (
    "train(\n    transfer_model, transfer_optimizer, transfer_train_loader, transfer_test_loader, TRANSFER_EPOCHS\n)"
)
HEAD, STACK = "classifier_head = nn.Linear(64, 8)", "nn.Sequential(cnn_backbone, classifier_head)"
TRANSFER = "nn.Sequential(cnn_backbone, transfer_head)"
COUNT = "counts = torch.bincount(labels, minlength=10)"
TEST_LOSS = 'history["test_loss"].append(criterion(logits, target).item())'
INVENTED = "{'train_loss': [1.5, 1.2], 'test_loss': [1.4, 1.3], 'test_accuracy': [0.5, 0.6]}"
CLASS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 5)
        self.l2, self.l1 = nn.Linear(128, 64), nn.Linear(1296, 128)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x))))))
        return self.relu(self.l2(torch.relu(self.l1(x.flatten(1)))))


cnn_backbone = Net()
"""
# Independent variants run together, in one notebook.
VARIANTS = {
    "a GPU that is a CPU, one-hot labels, a head in nn.Sequential, names used again, cross_entropy as a function": [
        (f"{FCN}).to(device)", f"{FCN}).cuda()"), (f"{STACK}.to(device)", f"{STACK}.to('cuda')"),
        ("batch.to(device), target.to(device)", "batch.cuda(), target.to('cuda:0', non_blocking=True)"),
        ("main_train = MyDataset(images[main_train_indices], labels[main_train_indices], transform)",
         "main_train = MyDataset(images[main_train_indices], nn.functional.one_hot(labels[main_train_indices], 8).float(), "
         "transform)"),
        ("torch.bincount(globals()[name].target).tolist()", "None"),
        ("majority = torch.bincount(main_train.target).argmax()", "majority = 1"),
        ("torch.bincount(main_train.target, minlength=8)", "main_train.target.sum(0).long()"),
        (HEAD, "classifier_head = nn.Sequential(nn.Linear(64, 8))"),
        ('print("a batch:"', 'images, labels = next(iter(main_train_loader))\nprint("a batch:"'),
        ("del crops", "mean, std = crops.mean(), crops.std()\ndel crops"),
        ("loss = criterion(", "loss = nn.functional.cross_entropy("),
    ],
    "Subset, shuffled in place, -1 to 1, epochs in a loop outside, a flat nn.Sequential, numbers written out": [
        (COUNT, "order = torch.randperm(len(images))\nimages[:], labels[:] = images[order], labels[order]\n"
                f"is_main, images = labels < 8, images / 127.5 - 1\n{COUNT}"),
        ("main_train = MyDataset(images[main_train_indices], labels[main_train_indices], transform)",
         "whole = MyDataset(images, labels, transform)\nmain_train = torch.utils.data.Subset(whole, main_train_indices)"),
        ("torch.bincount(globals()[name].target).tolist()", "None"),
        ("majority = torch.bincount(main_train.target).argmax()", "majority = 1"),
        ("torch.bincount(main_train.target, minlength=8)", "np.bincount([int(y) for _, y in main_train], minlength=8)"),
        ("split(is_main, MAIN_TRAIN)", "split(is_main, 18_000)"),
        (FCN_TRAINING, "fcn_history = [{key: each[0] for key, each in train(fcn, fcn_optimizer, main_train_loader, "
                       "main_test_loader, 1).items()} for epoch in range(50)]"),
        ("show_curves(fcn_history, ", "0 and show_curves(fcn_history, "),
        ('(("FCN", fcn_history), ("CNN", cnn_history))', "()"),
        (STACK, "nn.Sequential(*cnn_backbone, classifier_head)"), (TRANSFER, "nn.Sequential(*cnn_backbone, transfer_head)"),
    ],
    "networks as classes with one ReLU, another signature, keys and order, NLLLoss, no labels=, gradients cleared last": [
        ("cnn_backbone = make_backbone()\nclassifier_head", f"{CLASS}classifier_head"),
        ("def train(model, optimizer, train_loader, test_loader, epochs):",
         "def train(train_loader, test_loader, model, optimizer, criterion, epochs=50):"),
        ("criterion = nn.CrossEntropyLoss()", "del epochs\n    epochs = EPOCHS"),
        (FCN_TRAINING, "fcn_history = train(main_train_loader, main_test_loader, fcn, fcn_optimizer, nn.NLLLoss())\n"
                       "kept, fcn_history = fcn_history, tuple(fcn_history.values())"),
        (CNN_TRAINING, "cnn_history = train(main_train_loader, main_test_loader, cnn, cnn_optimizer, nn.NLLLoss())"),
        (TRANSFER_TRAINING, "train(transfer_train_loader, transfer_test_loader, transfer_model, transfer_optimizer, nn.NLLLoss())"),
        ("show_curves(fcn_history", "show_curves(kept"), ('("FCN", fcn_history)', '("FCN", kept)'),
        (FCN, f"{FCN}, nn.LogSoftmax(1)"), (STACK, "nn.Sequential(cnn_backbone, classifier_head, nn.LogSoftmax(1))"),
        (TRANSFER, "nn.Sequential(cnn_backbone, transfer_head, nn.LogSoftmax(1))"),
        ("            optimizer.zero_grad()\n", ""),
        ("optimizer.step()", "optimizer.step()\n            model.zero_grad(set_to_none=False)"),
        ("confusion_matrix(target, logits.argmax(1), labels=range(8))", "confusion_matrix(target, logits.argmax(1))"),
        ("train_counts = torch.bincount(main_train.target, minlength=8)",
         "train_counts = np.unique(main_train.target, return_counts=True)\nshort_names = []"),
    ],
    "divided by 255 from the start, split at random, one crop for a batch, means over batches, requires_grad_": [
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


def test_what_colab_always_has_is_there(cells, marking):
    changes = [
        (COUNT, "import seaborn as sns\nfrom torchsummary import summary\nfrom google.colab import drive\n"
                "drive.mount('/content/drive')\nimport urllib.request\n"
                f"urllib.request.urlretrieve(DATA_URL, 'again.h5')\n{COUNT}"),
        ("h5py.File(DATA_FILE", "h5py.File('/content/drive/MyDrive/Galaxy10.h5'"),
        ("print(fcn, f", "summary(fcn, (3, 48, 48))\nprint(fcn, f"),
    ]  # fmt: skip
    network = patch.multiple(urllib.request, urlretrieve=None, urlopen=None)
    with patch.dict(sys.modules), patch.object(h5py, "File", h5py.File), network:
        stand_in(os.environ["GALAXY10_FILE"])
        assert failures(cells, changes) == {}


FROZEN = "for parameter in cnn_backbone.parameters():\n    parameter.requires_grad = False"
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
    "softmax in both": (["q2_logits", "q3_head"], [(FCN, f"{FCN}, nn.Softmax(1)"),
                                                   (STACK, "nn.Sequential(cnn_backbone, classifier_head, nn.Softmax(1))")]),
    "sigmoid in the FCN": (["q2_logits"], [(FCN, f"{FCN}, nn.Sigmoid()")]),
    "ReLU on the logits": (["q2_logits"], [(FCN, f"{FCN}, nn.ReLU()")]),
    "padding": (["q3_convolutions"], [("(3, 8, kernel_size=5)", "(3, 8, kernel_size=5, padding=2)"),
                                      ("(8, 16, kernel_size=5)", "(8, 16, kernel_size=5, padding=2)"),
                                      ("16 * 9 * 9", "16 * 12 * 12")]),
    "no ReLU after a convolution": (["q3_pooling"], [("nn.Conv2d(8, 16, kernel_size=5),\n        nn.ReLU(),",
                                                      "nn.Conv2d(8, 16, kernel_size=5),")]),
    "average pooling": (["q3_pooling"], [("nn.MaxPool2d(2, 2),\n        nn.Flatten", "nn.AvgPool2d(2),\n        nn.Flatten")]),
    "dropout": (["q2_layers", "q3_pooling"], [(FCN, f"nn.Dropout(0.2), {FCN}"), ("nn.Flatten(),\n        nn.Linear(16",
                                               "nn.Flatten(),\n        nn.Dropout(0.2),\n        nn.Linear(16")]),
    "test loss of training images": (["q2_history"], [(TEST_LOSS, TEST_LOSS.replace("logits, target", "*predict(model, train_loader)"))]),
    "test loss divided by the number of images": (["q2_history"], [(TEST_LOSS, TEST_LOSS.replace(".item()", ".item() / len(target)"))]),
    "batch means divided by the number of images": (["q2_history"], [("loss.detach() * len(target)", "loss.detach()")]),
    "backward on test images": (["q2_training_images"], [
        ("        logits, target = predict(model, test_loader)",
         "        for batch, target in test_loader:\n            optimizer.zero_grad()\n"
         "            criterion(model(batch), target).backward()\n        optimizer.zero_grad()\n"
         "        logits, target = predict(model, test_loader)")]),
    "one set not normalised": (["q1_transform"], [("labels[transfer_test_indices] - 8, transform)",
                                                   "labels[transfer_test_indices] - 8, transforms.RandomCrop(48))")]),
    "transfer loader not shuffled": (["q1_train_loader"], [("transfer_train, batch_size=64, shuffle=True", "transfer_train, batch_size=64")]),
    "one epoch": (["q2_training_images"], [(FCN_TRAINING, FCN_TRAINING.replace("EPOCHS", "1"))]),
    "never trained": (["q3_training"], [(CNN_TRAINING, "cnn_history = fcn_history")]),
    "an invented history": (["q2_history"], [(FCN_TRAINING, f"{FCN_TRAINING}\nfcn_history = {INVENTED}")]),
    "the CNN's history invented": (["q3_training"], [(CNN_TRAINING, f"{CNN_TRAINING}\ncnn_history = {INVENTED}")]),
    "the head never trained": (["q5_optimizer"], [(TRANSFER_TRAINING, "dict(cnn_history)")]),
    "the head trained on test images": (["q5_optimizer"], [
        (TRANSFER_TRAINING, TRANSFER_TRAINING.replace("transfer_train_loader", "transfer_test_loader"))]),
    "unfrozen again": (["q5_frozen"], [("transfer_history = ", "cnn_backbone.requires_grad_(True)\ntransfer_history = ")]),
    "both matrices of the FCN": (["q4_matrices"], [("count_confusion(cnn, ", "count_confusion(fcn, ")]),
    "a schedule": (["q2_optimizer"], [("print(fcn, f", "s = torch.optim.lr_scheduler.StepLR(fcn_optimizer, 10)\nprint(fcn, f")]),
    "class weights": (["q2_logits"], [("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(weight=torch.arange(1.0, 9)[: len(model[-1].bias)])")]),
}  # fmt: skip
# What the tests say, and a teacher would repeat.
REASONS = {
    "test loader shuffled": "main_test_loader is shuffled",
    "batch means divided by the number of images":
        "train_loss in fcn_history is a sum of means of batches, divided by the number of images",
    "test loss of training images": "test_loss in fcn_history is of the training images",
    "backward on test images": "backward is also called for images of main_test",
    "padding": "convolution 1 has a stride of (1, 1) and a padding of (2, 2), not 1 and 0",
    "both matrices of the FCN": "cnn_confusion is the matrix of fcn",
    "one epoch": "the number of training steps of fcn is 6; 2 epochs have 12",
    "softmax in train": "nn.CrossEntropyLoss gets the softmax of the logits of fcn, and has a softmax already",
}  # fmt: skip


# What the student's own check of the question says, where it can find the mistake.
SEEN = {
    "labels 8 and 9 kept": "transfer_train has the labels [8, 9]",
    "wrong sizes": "main_train has 282 images, not 332",
    "overlapping sets": "43 images are both in main_train and in main_test",
    "not normalised": ": does the transform end in transforms.Normalize?",
    "32 hidden units": "fcn has 221,480 parameters, not 442,952",
    "kernel 3": "backbone and head have [214960, 520] parameters, not 178,096 and 520",
    "matrix of training images": "cnn_confusion counts 332 images, not each of the 43 test images once",
    "backbone not frozen": "178,226 parameters get gradients, not only the 130 of the head: is the backbone frozen?",
    "all parameters given to Adam": "transfer_optimizer has 178,226 parameters, not the 130 of the head",
    "a head of 8": "transfer_model makes outputs of shape (2, 8) of two crops, not 2 logits each: (2, 2)",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_loses_its_own_points_and_no_others(name, cells, marking):
    points, changes = MISTAKES[name]
    failed = failures(cells, changes)
    assert lost(cells, failed) == points
    assert not any(failed[each].startswith("undecided") for each in points)
    assert name not in REASONS or failed[points[0]] == REASONS[name]
    said = failed.get(f"{points[0][:2]}_check", "")
    assert said.endswith(SEEN.get(name, ""))


UNSEEN = {
    "a loss of the student's": (["q2_logits", "q2_history"], [("criterion(model(batch), target)",
        "-model(batch).log_softmax(1).gather(1, target[:, None]).mean()")]),
    "an exception in a network that a test gives other images": (["q2_layers", "q2_relu", "q2_logits"], [
        (f"fcn = nn.Sequential(nn.Flatten(), {FCN})", "class Strict(nn.Sequential):\n    def forward(self, x):\n"
         "        assert len(x) != 16, 'sixteen'\n        return super().forward(x)\n\n\n"
         f"fcn = Strict(nn.Flatten(), {FCN})")]),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_test_cannot_see_is_undecided(name, cells, marking):
    points, changes = UNSEEN[name]
    failed = failures(cells, changes)
    assert set(points) <= set(failed)
    assert all(failed[each].startswith("undecided: ") for each in lost(cells, failed))


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

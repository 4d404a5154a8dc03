"""The marks of the course: what right variants and known mistakes of each question cost.

The right notebook runs once. Before the first cell that another notebook changes the process forks, and its copy runs
the rest with the changes: a mistake of question 4 trains nothing.
"""

import multiprocessing
import re

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common.galaxies.synthetic import write_synthetic
from course.build import source_cells
from course.judge import CNN, Judge, first_difference, is_in
from course.watch import Undecided, fit_numbers, stand_in

import matplotlib.pyplot as plt
import numpy as np
import torch

CELLS = [cell for cell in source_cells() if cell.cell_type == "code"]
NAMES = [cell.metadata["nbgrader"]["grade_id"] for cell in CELLS]
SOURCES = [cell.source for cell in CELLS]
SOLUTIONS = [cell.metadata["nbgrader"]["solution"] for cell in CELLS]
MARKED = [cell.metadata["nbgrader"]["grade_id"] for cell in CELLS if cell.metadata["nbgrader"]["grade"]]
# Pictures and the control of question 5 are for the right notebook: they take time, and no test looks at them.
SLOW = re.compile(r"figure, .*?plt\.show\(\)|torch.manual_seed\(SEED\)\nuntrained_backbone.*", re.DOTALL)


def play(run, numbers, changes=(), draw=False):
    """Run cells with `changes` to their solutions, (old, new) pairs; return what those that fail said, by cell.

    New is None for a cell that is left empty.
    """
    failed, changes = {}, list(changes)
    for number in numbers:
        source = SOURCES[number]
        if SOLUTIONS[number]:
            for old, new in [change for change in changes if change[0] in source]:
                source = "# your code here" if new is None else source.replace(old, new)
                changes.remove((old, new))
            source = source if draw else SLOW.sub("pass", source)
        error = None
        try:
            exec(compile(fit_numbers(source, run.counts, 2), NAMES[number], "exec"), run.names)
        except (Exception, SystemExit) as raised:
            error = raised
            failed[NAMES[number]] = f"{'undecided: ' * isinstance(error, Undecided)}{error}"
        run.after_cell(source, error)
    assert not changes, f"nothing to change: {changes}"
    return failed


def play_as_marked(run, number, changes):
    """Run the cells from `number` on, with all that marking replaces, as `play` does."""
    stand_in("marking.h5")
    return play(run, range(number, len(CELLS)), changes)


def in_copy(function, *args):
    """Return what a function returns in a copy of this process."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    copy = fork.Process(target=lambda: sender.send(function(*args)))
    copy.start()
    sender.close()
    returned = receiver.recv()
    copy.join()
    return returned


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the failed cells said in the right notebook, "", and in each of the others."""
    folder, threads = tmp_path_factory.mktemp("marking"), torch.get_num_threads()
    write_synthetic(folder / "marking.h5", 150, 0, least=12)
    results = {"": {}}
    with pytest.MonkeyPatch.context() as environment:
        environment.chdir(folder)
        for name, value in {"GALAXY10_FILE": "marking.h5", "GALAXY10_EPOCHS": "2", "MPLBACKEND": "Agg"}.items():
            environment.setenv(name, value)
        torch.set_num_threads(1)  # the threads of a library do not survive a fork
        with Judge({"__name__": "__main__"}, "marking.h5") as run:
            run.names["_mark"] = run.mark
            for number, (source, is_solution) in enumerate(zip(SOURCES, SOLUTIONS, strict=True)):
                if is_solution:
                    for name in NOTEBOOKS.keys() - results.keys():
                        if any(old in source for old, _ in NOTEBOOKS[name]):
                            results[name] = in_copy(play_as_marked, run, number, NOTEBOOKS[name])
                results[""] |= play(run, [number], draw=True)
        torch.set_num_threads(threads)
        plt.close("all")
        run.names.clear()
    return results


def outcome(failed):
    """Return the tests that gave no points, those that are undecided with a question mark."""
    return [name + "?" * failed[name].startswith("undecided") for name in MARKED if name in failed]


def test_the_solution_gets_all_points_and_passes_its_own_checks(results):
    assert results[""] == {}


def test_a_network_of_other_operations_is_told_the_first_difference():
    assert first_difference([*CNN[:9], "linear"], CNN) == "relu is missing after linear 2"
    assert first_difference(CNN[:5], CNN) == "max_pool2d by 2 is missing after relu 2"
    assert first_difference([], ["relu"]) == "relu is missing"
    added = first_difference(["linear", "dropout", "linear"], ["linear", "linear"])
    assert added == "unexpected dropout after linear 1"
    replaced = first_difference([*CNN[:5], "avg_pool2d", *CNN[6:]], CNN)
    assert replaced == "avg_pool2d instead of max_pool2d by 2 after relu 2"


def test_a_confusion_matrix_may_lack_the_classes_that_do_not_occur():
    assert is_in(np.diag([1, 2]), [np.diag([1, 0, 2])])
    assert not is_in(np.diag([2, 1]), [np.diag([1, 0, 2])])


def test_the_points_match_the_assignment():
    points, by_hand = {}, 0
    for cell in source_cells():
        options = cell.metadata["nbgrader"]
        if options["grade"]:
            question = options["grade_id"][:2]
            points[question] = points.get(question, 0) + options["points"]
            assert options["points"] in (0.5, 1)
            by_hand += options["points"] * (cell.cell_type == "markdown")
    assert points == {"q1": 5, "q2": 5, "q3": 5, "q4": 2, "q5": 3}
    assert by_hand == 6.5


FCN = "nn.Linear(3 * 48 * 48, 64), nn.ReLU(), nn.Linear(64, 8)"
FCN_TRAINING = "fcn_history = train(fcn, fcn_optimizer, main_train_loader, main_test_loader, EPOCHS)"
CNN_TRAINING = "cnn_history = train(cnn, cnn_optimizer, main_train_loader, main_test_loader, EPOCHS)"
TRANSFER_TRAINING = (
    "train(\n    transfer_model, transfer_optimizer, transfer_train_loader, transfer_test_loader, TRANSFER_EPOCHS\n)"
)
HEAD, STACK = "classifier_head = nn.Linear(64, 8)", "nn.Sequential(cnn_backbone, classifier_head)"
TRANSFER = "nn.Sequential(cnn_backbone, transfer_head)"
COUNT = "counts = torch.bincount(labels, minlength=10)"
MAIN_TRAIN = "main_train = MyDataset(images[main_train_indices], labels[main_train_indices], transform)"
SPLIT = "main_train_indices, main_test_indices = split(is_main, MAIN_TRAIN)"
LOSS = "criterion(model(batch), target)"
TEST_LOSS = 'history["test_loss"].append(criterion(logits, target).item())'
TEST_PASS = "        logits, target = predict(model, test_loader)"
BACKWARD_ON_TEST = """        for batch, target in test_loader:
            optimizer.zero_grad()
            criterion(model(batch), target).backward()
"""
NO_COUNTS = [  # which the notebook prints, but not for targets of any form
    ("torch.bincount(globals()[name].target).tolist()", "None"),
    ("majority = torch.bincount(main_train.target).argmax()", "majority = 1"),
]
FROZEN = "for parameter in cnn_backbone.parameters():\n    parameter.requires_grad = False"
HEAD_TO_ADAM, ALL_TO_ADAM = "Adam(transfer_head.parameters()", "Adam(transfer_model.parameters()"
INVENTED = "{'train_loss': [1.5, 1.2], 'test_loss': [1.4, 1.3], 'test_accuracy': [0.5, 0.6]}"
AS_CLASS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 5)
        self.l2, self.l1 = nn.Linear(128, 64), nn.Linear(1296, 128)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x))))))
        return self.relu(self.l2(self.l1(x.flatten(1)).relu()))


cnn_backbone = Net()
"""
# Notebooks that are right too, each with several variants: their changes to the solution.
RIGHT = {
    "a GPU that is a CPU, one-hot labels, a head in nn.Sequential, names used again, cross_entropy as a function": [
        (f"{FCN}).to(device)", f"{FCN}).cuda()"),
        (f"{STACK}.to(device)", f"{STACK}.to('cuda')"),
        ("batch.to(device), target.to(device)", "batch.cuda(), target.to('cuda:0', non_blocking=True)"),
        (MAIN_TRAIN, MAIN_TRAIN.replace("labels[main_train_indices]", "nn.functional.one_hot(labels[main_train_indices], 8).float()")),
        *NO_COUNTS,
        ("torch.bincount(main_train.target, minlength=8)", "main_train.target.sum(0).long()"),
        (HEAD, "classifier_head = nn.Sequential(nn.Linear(64, 8))"),
        ('print("a batch:"', 'images, labels = next(iter(main_train_loader))\nprint("a batch:"'),
        ("del crops", "mean, std = crops.mean(), crops.std()\ndel crops"),
        ("loss = criterion(", "loss = nn.functional.cross_entropy("),
    ],
    "Subset, shuffled in place, -1 to 1, epochs in a loop outside, a flat nn.Sequential, numbers written out": [
        (COUNT, "order = torch.randperm(len(images))\nimages[:], labels[:] = images[order], labels[order]\n"
                f"is_main, images = labels < 8, images / 127.5 - 1\n{COUNT}"),
        (MAIN_TRAIN, "whole = MyDataset(images, labels, transform)\nmain_train = torch.utils.data.Subset(whole, main_train_indices)"),
        *NO_COUNTS,
        ("torch.bincount(main_train.target, minlength=8)", "np.bincount([int(y) for _, y in main_train], minlength=8)"),
        ("split(is_main, MAIN_TRAIN)", "split(is_main, 18_000)"),
        (FCN_TRAINING, "fcn_history = tuple({key: each[0] for key, each in train(fcn, fcn_optimizer, main_train_loader, "
                       "main_test_loader, 1).items()} for epoch in range(50))"),
        ("show_curves(fcn_history, ", "0 and show_curves(fcn_history, "),
        ('(("FCN", fcn_history), ("CNN", cnn_history))', "()"),
        (STACK, "nn.Sequential(*cnn_backbone, classifier_head)"),
        (TRANSFER, "nn.Sequential(*cnn_backbone, transfer_head)"),
    ],
    "a backbone as a class with one ReLU, another signature, NLLLoss, gradients cleared last, AdamW without decay": [
        ("cnn_backbone = make_backbone()\n", AS_CLASS),
        ("torch.optim.Adam(cnn.parameters()", "torch.optim.AdamW(cnn.parameters(), weight_decay=0"),
        ("def train(model, optimizer, train_loader, test_loader, epochs):",
         "def train(train_loader, test_loader, model, optimizer, criterion, epochs=50):"),
        ("criterion = nn.CrossEntropyLoss()", "del epochs\n    epochs = EPOCHS"),
        (FCN_TRAINING, "fcn_history = train(main_train_loader, main_test_loader, fcn, fcn_optimizer, nn.NLLLoss())"),
        (CNN_TRAINING, "cnn_history = train(main_train_loader, main_test_loader, cnn, cnn_optimizer, nn.NLLLoss())"),
        (TRANSFER_TRAINING, "train(transfer_train_loader, transfer_test_loader, transfer_model, transfer_optimizer, nn.NLLLoss())"),
        (FCN, f"{FCN}, nn.LogSoftmax(1)"),
        (STACK, "nn.Sequential(cnn_backbone, classifier_head, nn.LogSoftmax(1))"),
        (TRANSFER, "nn.Sequential(cnn_backbone, transfer_head, nn.LogSoftmax(1))"),
        ("            optimizer.zero_grad()\n", ""),
        ("optimizer.step()", "optimizer.step()\n            model.zero_grad(set_to_none=False)"),
        ("train_counts = torch.bincount(main_train.target, minlength=8)",
         "train_counts = np.unique(main_train.target, return_counts=True)\nshort_names = []"),
    ],
    "divided by 255 from the start, not stratified, lists and tensors, means over batches, an optimizer made for train": [
        (COUNT, f"images = images / 255\n{COUNT}"),
        # Without a random state, 1 split of these 126 images in 100 has means that are too far from those of all images.
        (", stratify=labels[indices]", ""),
        ("mean, std = first_crops.mean((0, 2, 3)), first_crops.std((0, 2, 3))",
         "mean, std = first_crops.mean((0, 2, 3)).tolist(), first_crops.std((0, 2, 3)).tolist()"),
        ('print("mean", mean.numpy().round(2), "std", std.numpy().round(2))', ""),
        ("loss_sum += loss.detach() * len(target)", "loss_sum += loss.detach()"),
        ("count += len(target)", "count += 1"),
        ("float(loss_sum / count)", "loss_sum / count"),
        ("criterion(logits, target).item()", "criterion(logits, target)"),
        (FCN_TRAINING, f"net, fcn = fcn, None\n{FCN_TRAINING.replace('train(fcn', 'train(net')}\nfcn = net"),
        (FROZEN, "cnn_backbone.requires_grad_(False)"),
        ("transfer_optimizer = torch", "transfer_optimizer = lambda: torch"),
        (TRANSFER_TRAINING, TRANSFER_TRAINING.replace("transfer_optimizer", "transfer_optimizer()")),
    ],
    "what Colab always has, split in the file's order, accuracy in percent, other matrices, a copy of the backbone": [
        ("h5py.File(DATA_FILE", "h5py.File('/content/drive/MyDrive/Galaxy10.h5'"),
        (COUNT, "import pandas as pd\nimport seaborn as sns\nfrom torchsummary import summary\n"
                "from google.colab import drive\ndrive.mount('/content/drive')\nimport urllib.request\n"
                f"urllib.request.urlretrieve(DATA_URL, 'again.h5')\n{COUNT}"),
        ("return train_test_split(indices, train_size=train_size, stratify=labels[indices], random_state=SEED)",
         "return indices[:train_size], indices[train_size:]"),
        ("(logits.argmax(1) == target).float().mean().item()", "100 * (logits.argmax(1) == target).float().mean().item()"),
        ("print(fcn, f", "summary(fcn, (3, 48, 48))\nprint(fcn, f"),
        ("confusion_matrix(target, logits.argmax(1), labels=range(8))", "confusion_matrix(target, logits.argmax(1))"),
        ("cnn_confusion = count_confusion(cnn, main_test_loader)",
         "logits, target = predict(cnn, main_test_loader)\ncnn_confusion = torch.zeros(8, 8, dtype=int)\n"
         "for true, found in zip(target, logits.argmax(1)):\n    cnn_confusion[true, found] += 1"),
        ("short_names = [name", "short_names = []\n[name"),
        (TRANSFER, "nn.Sequential(__import__('copy').deepcopy(cnn_backbone), transfer_head)"),
    ],
}  # fmt: skip
# Mistakes: the notebook in which each is made, beside one of another test; the tests that then give no points, with a
# question mark where they are undecided; and the changes to the solution.
MISTAKES = {
    # Question 1.
    "wrong sizes": (1, ["q1_sizes"], [("split(is_main, MAIN_TRAIN)", "split(is_main, MAIN_TRAIN - 50)")]),
    "overlapping sets": (2, ["q1_disjoint"], [(SPLIT, f"{SPLIT}\nmain_test_indices = main_train_indices[: len(main_test_indices)]")]),
    "test loader shuffled": (3, ["q1_test_loader"], [("(main_test, batch_size=64)", "(main_test, batch_size=64, shuffle=True)")]),
    "training loader not shuffled": (4, ["q1_train_loader"], [("(main_train, batch_size=64, shuffle=True)", "(main_train, batch_size=64)")]),
    "transfer loader not shuffled": (5, ["q1_train_loader"], [("transfer_train, batch_size=64, shuffle=True", "transfer_train, batch_size=64")]),
    "labels 8 and 9 kept": (6, ["q1_labels", "q5_optimizer?"], [
        ("labels[transfer_train_indices] - 8", "labels[transfer_train_indices]"),
        ("labels[transfer_test_indices] - 8", "labels[transfer_test_indices]")]),
    "statistics of uncropped images": (7, ["q1_statistics"], [("crop(image.float())", "image.float()")]),
    "not normalised": (8, ["q1_transform"], [(", transforms.Normalize(mean, std)]", "]")]),
    "one set not normalised": (9, ["q1_transform"], [("labels[transfer_test_indices] - 8, transform)",
                                                      "labels[transfer_test_indices] - 8, transforms.RandomCrop(48))")]),
    # Question 2: the network and its optimizer.
    "32 hidden units": (1, ["q2_layers"], [(FCN, "nn.Linear(3 * 48 * 48, 32), nn.ReLU(), nn.Linear(32, 8)")]),
    "no ReLU in the FCN": (2, ["q2_relu"], [(FCN, "nn.Linear(3 * 48 * 48, 64), nn.Linear(64, 8)")]),
    "softmax in both networks": (3, ["q2_logits", "q3_head"], [
        (FCN, f"{FCN}, nn.Softmax(1)"), (STACK, "nn.Sequential(cnn_backbone, classifier_head, nn.Softmax(1))")]),
    "sigmoid in the FCN": (4, ["q2_logits"], [(FCN, f"{FCN}, nn.Sigmoid()")]),
    "ReLU on the logits": (5, ["q2_logits"], [(FCN, f"{FCN}, nn.ReLU()")]),
    "an exception in a network that a test gives other images": (6, ["q2_layers?", "q2_relu?", "q2_logits?"], [
        (f"fcn = nn.Sequential(nn.Flatten(), {FCN})", "class Strict(nn.Sequential):\n    def forward(self, x):\n"
         "        assert len(x) != 4, 'four'\n        return super().forward(x)\n\n\n"
         f"fcn = Strict(nn.Flatten(), {FCN})")]),
    "SGD": (7, ["q2_optimizer"], [("torch.optim.Adam(fcn.parameters()", "torch.optim.SGD(fcn.parameters()")]),
    "a rate of 0.1": (8, ["q2_optimizer"], [("lr=0.001", "lr=0.1")]),
    "a schedule": (9, ["q2_optimizer"], [("print(fcn, f", "s = torch.optim.lr_scheduler.StepLR(fcn_optimizer, 10)\nprint(fcn, f")]),
    "dropout in both networks": (10, ["q2_layers", "q3_pooling"], [
        (FCN, f"nn.Dropout(0.2), {FCN}"),
        ("nn.Flatten(),\n        nn.Linear(16", "nn.Flatten(),\n        nn.Dropout(0.2),\n        nn.Linear(16")]),
    # Question 2: the training, of which the first network loses the points.
    "test loss of training images": (1, ["q2_history"], [(TEST_LOSS, TEST_LOSS.replace("logits, target", "*predict(model, train_loader)"))]),
    "no zero_grad": (2, ["q2_gradients"], [("            optimizer.zero_grad()\n", "")]),
    "trained on test images": (3, ["q2_training_images"], [("for batch, target in train_loader:", "for batch, target in test_loader:")]),
    "backward on test images": (4, ["q2_training_images"], [(TEST_PASS, f"{BACKWARD_ON_TEST}        optimizer.zero_grad()\n{TEST_PASS}")]),
    "one epoch": (5, ["q2_training_images"], [(FCN_TRAINING, FCN_TRAINING.replace("EPOCHS", "1"))]),
    "steps on test images too": (6, ["q2_training_images"], [(TEST_PASS, f"{BACKWARD_ON_TEST}            optimizer.step()\n{TEST_PASS}")]),
    "softmax in train": (9, ["q2_logits"], [(LOSS, LOSS.replace("(batch)", "(batch).softmax(1)"))]),
    "one step per epoch": (9, ["q2_training_images"], [("            optimizer.step()\n", ""), (TEST_PASS, f"        optimizer.step()\n{TEST_PASS}")]),
    "an invented history": (10, ["q2_history"], [(FCN_TRAINING, f"{FCN_TRAINING}\nfcn_history = {INVENTED}")]),
    "class weights": (10, ["q2_logits"], [("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(weight=torch.arange(1.0, 9)[: len(model[-1].bias)])")]),
    "a loss of the student's": (11, ["q2_logits?"], [(LOSS, "-model(batch).log_softmax(1).gather(1, target[:, None]).mean()")]),
    "only the last batch logged": (11, ["q2_history"], [("float(loss_sum / count)", "float(loss)")]),
    # Question 3.
    "kernel 3": (1, ["q3_convolutions"], [("nn.Conv2d(8, 16, kernel_size=5)", "nn.Conv2d(8, 16, kernel_size=3)"),
                                          ("nn.Linear(16 * 9 * 9, 128)", "nn.Linear(16 * 10 * 10, 128)")]),
    "no ReLU after the features": (2, ["q3_pooling"], [("nn.Linear(128, 64),\n        nn.ReLU(),\n", "nn.Linear(128, 64),\n")]),
    "never trained": (4, ["q3_training"], [(CNN_TRAINING, "cnn_history = fcn_history")]),
    "padding": (7, ["q3_convolutions"], [("(3, 8, kernel_size=5)", "(3, 8, kernel_size=5, padding=2)"),
                                         ("(8, 16, kernel_size=5)", "(8, 16, kernel_size=5, padding=2)"),
                                         ("16 * 9 * 9", "16 * 12 * 12")]),
    "AdamW with its decay": (7, ["q3_optimizer"], [("torch.optim.Adam(cnn.parameters()", "torch.optim.AdamW(cnn.parameters()")]),
    "average pooling": (8, ["q3_pooling"], [("nn.MaxPool2d(2, 2),\n        nn.Flatten", "nn.AvgPool2d(2),\n        nn.Flatten")]),
    "the CNN's history invented": (11, ["q3_training"], [(CNN_TRAINING, f"{CNN_TRAINING}\ncnn_history = {INVENTED}")]),
    # Question 4.
    "matrix transposed": (1, ["q4_matrices"], [("confusion_matrix(target, logits.argmax(1), labels", "confusion_matrix(logits.argmax(1), target, labels")]),
    "matrix of training images": (2, ["q4_matrices"], [("count_confusion(cnn, main_test_loader)", "count_confusion(cnn, main_train_loader)")]),
    "test counts for training counts": (3, ["q4_counts"], [("train_counts = torch.bincount(main_train.target", "train_counts = torch.bincount(main_test.target")]),
    "both matrices of the FCN": (5, ["q4_matrices"], [("count_confusion(cnn, ", "count_confusion(fcn, ")]),
    # Question 5.
    "all parameters given to Adam": (2, ["q5_optimizer"], [(HEAD_TO_ADAM, ALL_TO_ADAM)]),
    "an untrained backbone": (3, ["q5_backbone"], [(FROZEN, f"cnn_backbone = make_backbone()\n{FROZEN}")]),
    "a head of 8": (4, ["q5_head"], [("transfer_head = nn.Linear(64, 2)", "transfer_head = nn.Linear(64, 8)")]),
    "backbone not frozen": (5, ["q5_frozen", "q5_optimizer"], [(FROZEN, "pass"), (HEAD_TO_ADAM, ALL_TO_ADAM)]),
    "the head never trained": (7, ["q5_optimizer"], [(TRANSFER_TRAINING, "dict(cnn_history)")]),
    "the head trained on test images": (8, ["q5_optimizer"], [
        (TRANSFER_TRAINING, TRANSFER_TRAINING.replace("transfer_train_loader", "transfer_test_loader"))]),
    "an invented history of the transfer": (9, ["q5_optimizer"], [
        ("show_curves(transfer_history", f"transfer_history = {INVENTED}\nshow_curves(transfer_history")]),
    "parts of a network trained in another one": (11, ["q5_optimizer?"], [
        (TRANSFER_TRAINING, TRANSFER_TRAINING.replace("transfer_model,", "nn.Sequential(cnn_backbone, transfer_head),"))]),
    "nothing handed in": (12, MARKED, [(source, None) for source, is_solution in zip(SOURCES, SOLUTIONS, strict=True) if is_solution]),
}  # fmt: skip
# What the tests say, and a teacher would repeat.
REASONS = {
    "only the last batch logged": "fcn_history does not contain the train_loss of each epoch, a mean over all images: ",
    "test loss of training images": "fcn_history does not contain the test_loss of each epoch, a mean over all images: ",
    "backward on test images": "backward is also called for fcn on the test set",
    "steps on test images too": "fcn is trained on the images of the test set",
    "padding": "convolution 1 maps 48 x 48 pixels to 48 x 48: it should have no padding and a stride of 1",
    "both matrices of the FCN": "cnn_confusion is the matrix of fcn",
    "matrix transposed": "the rows of fcn_confusion are the predicted classes, not the true ones",
    "softmax in train": "nn.CrossEntropyLoss gets the softmax of the logits of fcn, but already contains a softmax",
}  # fmt: skip
# Mistakes of which the student's own check says the same sentence.
SEEN = (
    "labels 8 and 9 kept", "wrong sizes", "overlapping sets", "test loader shuffled", "training loader not shuffled",
    "transfer loader not shuffled", "32 hidden units", "softmax in both networks", "one epoch", "kernel 3",
    "matrix of training images", "backbone not frozen", "all parameters given to Adam", "a head of 8",
)  # fmt: skip
# Cells that are missing, by question.
WITHOUT = {
    "q1": [("transform = transforms.Compose", None), ("main_train_loader =", None)],
    "q2": [("def train(", "def my_train("), ("fcn = nn.Sequential(", "my_fcn = nn.Sequential(")],
    "q3": [("def make_backbone", None), ("cnn_history = train", None)],
    "q4": [("cnn_confusion = ", None), ("train_counts =", None)],
}
NOTEBOOKS = RIGHT | WITHOUT
for number, _, changes in MISTAKES.values():
    NOTEBOOKS[number] = NOTEBOOKS.get(number, []) + changes


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_variant_gets_all_points_and_passes_its_own_checks(name, results):
    assert results[name] == {}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_loses_its_points_with_a_reason(name, results):
    number, points, _ = MISTAKES[name]
    failed = results[number]
    assert set(points) <= set(outcome(failed))
    if name in REASONS:
        assert failed[points[0]].startswith(REASONS[name])
    if name in SEEN:
        assert failed[f"{points[0][:2]}_check"] == failed[points[0]]


@pytest.mark.parametrize("number", sorted({number for number, _, _ in MISTAKES.values()}))
def test_mistakes_lose_no_points_of_other_tests(number, results):
    expected = {test for other, tests, _ in MISTAKES.values() if other == number for test in tests}
    assert set(outcome(results[number])) <= expected


@pytest.mark.parametrize("question", WITHOUT)
def test_a_missing_question_costs_no_points_of_another(question, results):
    found = [name for name in outcome(results[question]) if not name.endswith("?")]
    assert {name[:2] for name in found} <= {question}
    assert outcome(results[question])

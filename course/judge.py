"""The tests of the course: they judge what networks compute and how they were trained, not how the code is written.

`start(names, file)` watches a notebook run; `Judge.mark(test)` then gives the points, or raises `Lost` with a reason,
or `Undecided` if it cannot see what it needs. The run of a submission imports this file and watch.py from the course's
folder.

Networks are judged by the outputs of a copy with random weights, data by reading the sets, training by the forwards
that the watch recorded, histories and matrices by values computed from these. A mistake in `train` costs points for the
first network only.
"""

import copy
import numbers
import os
from functools import cache
from itertools import zip_longest
from types import SimpleNamespace

from course.watch import SETS, Lost, Undecided, Watch, as_numbers, fit_numbers, ids, keys, stand_in, train_size

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.data import Subset
from torchvision import transforms

FINALS = {
    "": lambda outputs: outputs,
    "log_softmax": lambda outputs: outputs.log_softmax(1),
    "softmax": lambda outputs: outputs.softmax(1),
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}
ACTIVATIONS = {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "softmax", "log_softmax"}
LAYERS = {"conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout"}
LAYERS |= {"batch_norm", "layer_norm", "group_norm"}
FCN = ["linear", "relu", "linear"]
CNN = ["conv2d", "relu", "max_pool2d by 2", "conv2d", "relu", "max_pool2d by 2", "linear", "relu", "linear", "relu"]
CNN += ["linear"]


class Judge(Watch):
    """A watch that marks tests."""

    def __init__(self, names, file):
        super().__init__(names, file)
        self.question, self.is_blank = None, False  # whether a cell of the question is empty
        self.faults = {}  # of `train`: messages, and the first network that lost points for them
        self.features = []  # of the backbone trained in question 3

    def mark(self, test):
        """Run a test. Raises Lost or Undecided; any other exception in the test becomes Undecided."""
        if test[:2] != self.question:
            self.question, self.is_blank, self.has_blank = test[:2], self.has_blank, False
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                TESTS[test](self)
        except Lost as error:
            raise error.with_traceback(None) from None
        except BaseException as error:
            reason = str(error) if isinstance(error, Undecided) else f"{type(error).__name__}: {error}"
            if self.is_blank:
                raise Lost(f"{reason}, and a cell of the question is empty") from None
            raise Undecided(reason) from None

    def is_new(self, name, fault):
        """Return whether a fault of `train` was not yet found for a network before `name`."""
        return self.faults.setdefault(fault, name) == name


# Question 1


def short(values):
    """Return numbers as text, rounded."""
    return "[" + ", ".join(f"{value:.3g}" for value in torch.as_tensor(values).flatten().tolist()) + "]"


def pictures(dataset):
    """Return the whole images that a set reads. Raises Undecided for an unknown kind of set."""
    if isinstance(dataset, Subset):
        inner = pictures(dataset.dataset)
        return [inner[int(index)] for index in dataset.indices]
    if not hasattr(dataset, "data"):
        raise Undecided(f"the images of a {type(dataset).__name__} could not be inspected")
    return dataset.data


@cache
def labels_of(dataset):
    """Return the labels of a set, by reading it."""
    return [int(as_numbers(torch.as_tensor(dataset[index][1])[None])) for index in range(len(dataset))]


def crop_statistics(images):
    """Return mean and standard deviation of each colour, 0-255, over all crops of images, given as keys."""
    images = torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8).view(len(images), 3, 69, 69).float()
    # The number of crops that contain each pixel, along one side.
    crops = torch.tensor([min(place + 1, 69 - 48 + 1, 69 - place) for place in range(69)])
    share = crops[:, None] * crops / crops.sum() ** 2
    mean, square = ((each * share).sum((2, 3)).mean(0) for each in (images, images**2))
    return mean, (square - mean**2).sqrt()


def main_statistics(run):
    """Return `crop_statistics` of all images of classes 0-7."""
    return crop_statistics([key for key, label in run.label_of.items() if label < 8])


def check_read(run):
    pairs = [(each["images"], each["labels"]) for each in run.values]
    pairs = {tuple(map(id, pair)): pair for pair in pairs if pair[0] is not None and pair[1] is not None}
    if not pairs:
        raise Undecided("images and labels are missing")
    wrong = "labels do not match the images"
    for images, labels in pairs.values():
        if not len(run.label_of) == len(images) == len(labels):
            continue
        found = keys(images)
        if set(found) != set(run.label_of):
            wrong = "images differ from the images in the file"
        elif [run.label_of[key] for key in found] == as_numbers(labels).tolist():
            return
    raise Lost(wrong)


def check_sizes(run):
    for task, total in run.counts.items():
        train = train_size(task, total)
        for name, size in ((f"{task}_train", train), (f"{task}_test", total - train)):
            if len(run.get(name)) != size:
                raise Lost(f"{name} has {len(run.get(name)):,} images, not {size:,}")


def check_disjoint(run):
    for task in ("main", "transfer"):
        train, test = (keys(pictures(run.get(f"{task}_{subset}"))) for subset in ("train", "test"))
        if shared := len(set(train) & set(test)):
            raise Lost(f"{shared} images are in both {task}_train and {task}_test")


def check_labels(run):
    for name in SETS:
        found = keys(pictures(run.get(name)))
        if not set(found) <= set(run.label_of):
            raise Undecided(f"the images of {name} were not recognised")
        expected = [run.label_of[key] - 8 * name.startswith("transfer") for key in found]
        labels = labels_of(run.get(name))
        if not set(labels) <= set(range(8 if name.startswith("main") else 2)):
            raise Lost(f"{name} has the labels {sorted(set(labels))}")
        if wrong := sum(a != b for a, b in zip(labels, expected, strict=True)):
            raise Lost(f"{wrong} of {len(expected)} labels of {name} do not match their images")


def check_statistics(run):
    transform = getattr(run.names.get("main_train"), "transform", None)
    used = [each for each in getattr(transform, "transforms", [transform]) if isinstance(each, transforms.Normalize)]
    pairs = [(each["mean"], each["std"]) for each in run.values] + [(each.mean, each.std) for each in used]
    pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not pairs:
        raise Undecided("mean and std are missing")
    mean, std = main_statistics(run)
    for pair in pairs:
        found = [torch.as_tensor(value).flatten().float().expand(3) for value in pair]
        for scale, offset in ((1, 0), (1 / 255, 0), (1 / 127.5, -1)):
            is_near = torch.allclose(found[0], mean * scale + offset, rtol=0.06, atol=0.01 * scale * std.min())
            if is_near and torch.allclose(found[1], std * scale, rtol=0.06):
                return
    raise Lost(
        f"mean and std are {short(pairs[0][0])} and {short(pairs[0][1])}; crops of the images have {short(mean)} and "
        f"{short(std)}, for pixel values of 0-255"
    )


def check_transform(run):
    mean, std = main_statistics(run)
    for name in SETS:
        dataset = run.get(name)
        crops = torch.stack([torch.as_tensor(dataset[index][0]) for index in range(min(len(dataset), 300))]).float()
        if tuple(crops.shape[1:]) != (3, 48, 48):
            raise Lost(f"{name}[0] gives a crop of {tuple(crops.shape[1:])}, not (3, 48, 48)")
        own = crop_statistics(keys(pictures(dataset)))  # classes 8 and 9 are brighter than the others
        expected, found = ((own[0] - mean) / std, own[1] / std), (crops.mean((0, 2, 3)), crops.std((0, 2, 3)))
        gaps = (found[0] - expected[0]) / expected[1], (found[1] / expected[1]).log()
        if max(gap.abs().max() for gap in gaps) > 0.5:
            raise Lost(
                f"the crops of {name} are not normalised: their means are {short(found[0])}, their standard deviations "
                f"{short(found[1])}; after normalisation they would be {short(expected[0])} and {short(expected[1])}"
            )
    if len({torch.as_tensor(run.get("main_train")[0][0]).numpy().tobytes() for _ in range(10)}) < 4:
        raise Lost("the crops of an image of main_train are always the same")


def check_loaders(run, subset):
    for name in (f"main_{subset}", f"transfer_{subset}"):
        loader, expected = run.get(f"{name}_loader"), labels_of(run.get(name))
        batches = [as_numbers(target) for _, target in loader]
        first, second = torch.cat(batches).tolist(), torch.cat([as_numbers(target) for _, target in loader]).tolist()
        if len(batches[0]) != min(64, len(expected)):
            raise Lost(f"{name}_loader gives batches of {len(batches[0])} images, not 64")
        left_out = len(expected) - len(first)
        if left_out and (subset == "test" or left_out != len(expected) % 64):
            raise Lost(f"{name}_loader gives {len(first)} of the {len(expected)} images")
        if subset == "train" and first == second:
            raise Lost(f"{name}_loader is not shuffled")
        if subset == "test" and first != second:
            raise Lost(f"{name}_loader is shuffled")
        if subset == "test" and first != expected:
            raise Lost(f"{name}_loader gives the images in a different order than {name}")


# Networks


class Trace(TorchFunctionMode):
    """Record the functions that a network calls, in order, with their arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append(SimpleNamespace(name=func.__name__.strip("_"), args=args, result=result))
        return result

    def of(self, name):
        """Return the calls of a function."""
        return [call for call in self.calls if call.name == name]


def same(first, second):
    """Return whether two outputs agree up to rounding."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def look_at(network):
    """Inspect what a network computes, with a copy that has random weights.

    operations: the layers and activations up to the last linear layer; convolutions and linears: the calls; head: the
    parameters of the last linear layer; final: the key in FINALS of the function that maps the outputs of a reference
    network with the same weights to the network's outputs, or None; as_asked: whether there is such a function and the
    outputs are the same in training mode.
    """
    copied, images = copy.deepcopy(network).cpu().eval(), torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
        with Trace() as trace:
            outputs = copied(images)
        is_random = not same(copied.train()(images), outputs)
        looks = SimpleNamespace(outputs=outputs, convolutions=trace.of("conv2d"), linears=trace.of("linear"))
        if not looks.linears:
            raise Undecided("the layers of the network could not be inspected")
        try:
            expected = reference(images, looks.convolutions, looks.linears)
            looks.final = next((name for name, function in FINALS.items() if same(function(expected), outputs)), None)
        except RuntimeError:  # the layers do not fit together like this
            looks.final = None
    last = max(number for number, call in enumerate(trace.calls) if call.name == "linear")
    looks.operations = [
        f"{call.name} by {call.args[1]}" if call.name == "max_pool2d" else call.name
        for call in trace.calls[: last + 1]
        if call.name in ACTIVATIONS | LAYERS
    ]
    looks.as_asked = looks.final is not None and not is_random
    if looks.final is None:
        looks.final = next((call.name for call in trace.calls[last:] if call.name in FINALS), None)
    own = {id(p): original for p, original in zip(copied.parameters(), network.parameters(), strict=True)}
    looks.head = [own.get(id(each)) for each in looks.linears[-1].args[1:3]]
    return looks


def reference(images, convolutions, linears):
    """Apply convolutions, each with ReLU and max-pooling by 2, and linear layers with ReLU between them to images."""
    for call in convolutions:
        images = F.max_pool2d(F.conv2d(images, *call.args[1:]).relu(), 2)
    images = images.flatten(1)
    for call in linears:
        images = F.linear(images if call is linears[0] else images.relu(), *call.args[1:3])
    return images


def check_shapes(layers, calls, expected):
    """Raise Lost unless the weights of layers have these shapes."""
    found = [tuple(call.args[1].shape) for call in calls]
    if found != expected:
        raise Lost(f"{layers} have weights of {found}, not {expected}")


def first_difference(found, wanted):
    """Return, as text, where a list of operations first differs from the wanted one."""
    i = next(i for i, (one, other) in enumerate(zip_longest(found, wanted)) if one != other)
    place = f" after {wanted[i - 1].split()[0]} {wanted[:i].count(wanted[i - 1])}" if i else ""
    if len(found) < len(wanted):
        return f"{wanted[i]} is missing{place}"
    if len(found) > len(wanted):
        return f"unexpected {found[i]}{place}"
    return f"{found[i]} instead of {wanted[i]}{place}"


def check_operations(name, looks, expected, kinds):
    """Raise Lost if a network does not compute what the assignment asks, because operations of these kinds differ."""
    found, wanted = ([each for each in every if each.split()[0] in kinds] for every in (looks.operations, expected))
    if not looks.as_asked and found != wanted:
        raise Lost(f"{name}: {first_difference(found, wanted)}")
    if not looks.as_asked and looks.operations == expected:
        raise Undecided(f"{name} computes something other than its layers")


def check_layers(run):
    looks = look_at(run.get("fcn"))
    check_shapes("the linear layers of fcn", looks.linears, [(64, 6912), (8, 64)])
    check_operations("fcn", looks, FCN, LAYERS)


def check_convolutions(run):
    convolutions = look_at(run.get("cnn")).convolutions
    check_shapes("the convolutions of cnn", convolutions, [(8, 3, 5, 5), (16, 8, 5, 5)])
    for number, call in enumerate(convolutions, 1):
        before, after = call.args[0].shape[-1], call.result.shape[-1]
        if after != before - 4:
            raise Lost(
                f"convolution {number} maps {before} x {before} pixels to {after} x {after}: it should have no padding "
                "and a stride of 1"
            )


def check_features(run):
    found = [call.result.shape[1] for call in look_at(run.get("cnn")).linears[:-1]]
    if found != [128, 64]:
        raise Lost(f"the linear layers of cnn before the head give {found} outputs, not [128, 64]")
    backbone = run.names.get("cnn_backbone")
    if isinstance(backbone, torch.nn.Module) and look_at(backbone).outputs.shape[1:] != (64,):
        raise Lost(f"cnn_backbone gives {tuple(look_at(backbone).outputs.shape[1:])} per image, not 64 features")


def seen_loss(run, name):
    """Return the first loss of a network, and the function of FINALS between both; None for anything not seen."""
    first = next((each for each in run.forwards_of(name) if each.loss), None)
    if first is None:
        return None, None
    between = (key for key, function in FINALS.items() if same(function(first.outputs), first.loss.outputs))
    return first.loss, next(between, None)


def check_logits(run, name):
    """Raise Lost if the loss function of a network does not get logits or, for nn.NLLLoss, log-probabilities."""
    final, (loss, between) = look_at(run.get(name)).final, seen_loss(run, name)
    if loss and between is None:
        raise Undecided(f"the loss function gets something other than the outputs of {name}")
    wrong = {
        "softmax": "nn.CrossEntropyLoss gets the softmax of the logits of {}, but already contains a softmax",
        "sigmoid": "nn.CrossEntropyLoss gets the sigmoid of the logits of {}, not the logits",
        "relu": "the logits of {} go through a ReLU, so none can be negative",
    }
    if final in wrong:
        raise Lost(wrong[final].format(name))
    if loss and loss.function == "nll_loss" and "log_softmax" not in (final, between):
        raise Lost(f"nn.NLLLoss needs log-probabilities, but gets the {between or 'logits'} of {name}")
    if between in wrong and run.is_new(name, wrong[between]):
        raise Lost(wrong[between].format(name))
    if loss and loss.options and run.is_new(name, "options"):
        raise Lost("the loss function has class weights or label smoothing")


def check_fcn_logits(run):
    check_logits(run, "fcn")
    if all(each.loss is None for each in run.training("fcn")):
        raise Undecided("no call of nn.CrossEntropyLoss was seen")


def check_head(run, name, classes):
    looks = look_at(run.get(name))
    outputs = (2, *looks.outputs.shape[1:])
    if outputs != (2, classes):
        raise Lost(f"{name} gives outputs of {outputs}, not (2, {classes})")
    check_shapes(f"the head of {name}", looks.linears[-1:], [(classes, 64)])
    check_logits(run, name)


def check_cnn_head(run):
    network = run.get("cnn")
    check_head(run, "cnn", 8)
    parts = [run.names.get(name) for name in ("cnn_backbone", "classifier_head")]
    if all(isinstance(part, torch.nn.Module) for part in parts):
        copied, images = copy.deepcopy(torch.nn.ModuleList([network, *parts])).eval(), torch.randn(4, 3, 48, 48)
        with torch.no_grad():
            whole, stacked = copied[0](images), copied[2](copied[1](images))
        if not same(whole, stacked) and not same(whole, stacked.log_softmax(1)):
            raise Lost("cnn is not cnn_backbone followed by classifier_head")


# Training


def check_optimizer(run, name, parameters, rate):
    """Raise Lost unless a network's optimizer is Adam with these parameters, and with this rate in all steps."""
    steps = [each for each in run.forwards_of(name) if each.optimizer]
    optimizer = steps[0].optimizer if steps else run.get(f"{name.removesuffix('_model')}_optimizer")
    kind = type(optimizer)
    if kind is torch.optim.AdamW and not any(group["weight_decay"] for group in optimizer.param_groups):
        kind = torch.optim.Adam  # without weight decay both take the same steps
    if kind is not torch.optim.Adam:
        raise Lost(f"the optimizer of {name} is {kind.__name__}, not Adam")
    rates = {each.rate for each in steps} | {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) > 1 or any("initial_lr" in group for group in optimizer.param_groups):  # set by schedulers
        raise Lost(f"the learning rate of {name} has a schedule, but should be {rate} throughout")
    if not np.isclose([*rates], rate).all():
        raise Lost(f"the learning rate of {name} is {rates.pop()}, not {rate}")
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if ids(given) != ids(parameters):
        found, expected = (sum(p.numel() for p in each) for each in (given, parameters))
        raise Lost(f"the optimizer of {name} has {found:,} parameters, not {expected:,}")


def check_gradients(run):
    if any(each.has_leftover for each in run.training("fcn")):
        raise Lost("gradients accumulate from step to step: zero_grad is missing, or in the wrong place")


def epochs_of(run, name):
    """Return the passes that trained a network. Raises Undecided if no loader gave the batches."""
    subset = run.training(name)[0].dataset
    if subset is None:
        raise Undecided(f"it could not be seen on which images {name} was trained")
    return [each for each in run.passes(name) if each[0].dataset == subset and any(one.optimizer for one in each)]


def check_training(run, name, subset, epochs):
    """Raise Lost unless a network was trained only on this set, on all batches, for one of these numbers of epochs."""
    trained = {each.dataset for each in run.training(name)} - {None, subset}
    backward = {each.dataset for each in run.forwards_of(name) if each.has_backward} - {None, subset, *trained}
    words = {subset.replace("train", "test"): "the test set"}
    found = ["{} is trained on the images of " + words.get(other, other) for other in sorted(trained)]
    found += ["backward is also called for {} on " + words.get(other, other) for other in sorted(backward)]
    faults = [each.format(name) for each in found if run.is_new(name, each)]
    passes, size = epochs_of(run, name), len(run.get(subset))
    images = min(sum(len(one.outputs) for one in each if one.optimizer) for each in passes)
    if images < size // 64 * 64 and not trained and run.is_new(name, "steps"):
        faults.append(f"an epoch of {name} has steps for {images} of {size} images")
    if len(passes) not in epochs:
        faults.append(f"{name} was trained for {len(passes)} epochs, not {epochs[0]}")
    if faults:
        raise Lost("; ".join(faults))


def leaves(value, path=()):
    """Yield the numbers in a history of any form, each with its path."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, numbers.Number):
        yield path, float(value)
    elif isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


def sequences(history):
    """Return all lists of numbers in a history of any form: numbers whose paths differ in one place."""
    found = {}
    for path, number in leaves(history):
        for place in range(len(path)):
            found.setdefault((path[:place], path[place + 1 :]), []).append(number)
    return list(found.values())


def accuracy(outputs, target):
    return (outputs.argmax(1) == target).double().mean()


def means(batches, function):
    """Return the mean of a function of outputs and labels over a pass, by images and by batches."""
    values = [float(function(each.outputs, each.target)) for each in batches]
    return [np.average(values, weights=[len(each.outputs) for each in batches]), np.mean(values)]


def is_near(values, rows):
    """Return whether each of the values is in its row, up to rounding."""
    return all(np.isclose(value, row, rtol=5e-3, atol=1e-3).any() for value, row in zip(values, rows, strict=True))


def check_history(run, name, tested):
    """Raise Lost unless a history contains the mean losses and accuracies of the observed training.

    tested: the name of the test set.
    """
    epochs, passes, title = epochs_of(run, name), run.passes(name), f"{name.removesuffix('_model')}_history"
    lists = [each for each in sequences(run.get(title)) if len(each) == len(epochs)]
    if not lists:
        raise Lost(f"{title} has no list of {len(epochs)} numbers, one per epoch")
    loss, between = seen_loss(run, name)
    losses = [F.cross_entropy]
    if loss and between is not None:  # as `train` computes it
        losses.append(lambda outputs, target: F.cross_entropy(FINALS[between](outputs), target, **loss.options))
    expected = {"train_loss": [], "test_loss": [], "test_accuracy": []}  # all correct values, for each epoch
    starts = [passes.index(each) for each in epochs]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        train = [each for each in passes[start:end] if each[0].dataset == epochs[0][0].dataset]
        test = [each for each in passes[start + 1 : end] if each[0].dataset == tested]
        expected["train_loss"].append([mean for each in train for function in losses for mean in means(each, function)])
        expected["test_loss"].append([mean for each in test for function in losses for mean in means(each, function)])
        shares = [mean for each in test for mean in means(each, accuracy)]
        expected["test_accuracy"].append([*shares, *(100 * share for share in shares)])
    faults = []
    for kind, rows in expected.items():
        if not all(rows):
            raise Undecided(f"no pass of {name} over {tested} was seen after each epoch")
        if not any(is_near(each, rows) for each in lists) and run.is_new(name, kind):
            text = ", ".join(f"{row[0]:.3f}" for row in rows)
            faults.append(f"{title} does not contain the {kind} of each epoch, a mean over all images: {text}")
    if faults:
        raise Lost("; ".join(faults))


def check_cnn_training(run):
    run.features = features(run.get("cnn"))
    check_training(run, "cnn", "main_train", (run.get("EPOCHS"), 50))
    check_history(run, "cnn", "main_test")


# Question 4


def matrices(run, name):
    """Return the confusion matrices of a network's passes over main_test after its training."""
    passes = run.passes(name)
    while any(one.optimizer for each in passes for one in each):
        passes.pop(0)
    tested = [each for each in passes if each[0].dataset == "main_test"]
    pairs = [torch.cat([one.target * 8 + one.outputs.argmax(1) for one in each]) for each in tested]
    return [torch.bincount(each, minlength=64).view(8, 8).numpy() for each in pairs]


def trim(matrix):
    """Return a confusion matrix without classes that do not occur: scikit-learn omits them by default."""
    kept = matrix.any(0) | matrix.any(1)
    return matrix[kept][:, kept]


def is_in(matrix, matrices):
    return any(np.array_equal(trim(matrix), trim(each)) for each in matrices)


def check_matrices(run):
    expected = {name: matrices(run, name) for name in ("fcn", "cnn")}
    size = len(run.get("main_test"))
    for name, other in (("fcn", "cnn"), ("cnn", "fcn")):
        matrix = np.asarray(run.get(f"{name}_confusion"))
        if is_in(matrix, expected[name]):
            continue
        if not np.isclose(matrix.sum(), size):
            raise Lost(f"{name}_confusion adds up to {matrix.sum():,.0f}, but main_test has {size:,} images")
        if is_in(matrix.T, expected[name]):
            raise Lost(f"the rows of {name}_confusion are the predicted classes, not the true ones")
        if is_in(matrix, expected[other]):
            raise Lost(f"{name}_confusion is the matrix of {other}")
        if not expected[name] or run.forwards_of(name)[-1].iteration is None:
            raise Undecided(f"the images of {name}_confusion could not be seen")
        raise Lost(f"{name}_confusion is not what {name} predicts: none of its passes over main_test has these counts")


def check_counts(run):
    counts = run.get("train_counts")
    if hasattr(counts, "to_dict"):
        counts = counts.to_dict()
    if isinstance(counts, (tuple, list)) and len(counts) == 2:  # np.unique(..., return_counts=True)
        counts = dict(zip(*(torch.as_tensor(each).tolist() for each in counts), strict=True))
    if isinstance(counts, dict):
        in_order = [counts.get(label, 0) for label in range(8)]
        counts = in_order if any(in_order) else counts.values()
    found = [int(count) for count in counts]
    expected = np.bincount(labels_of(run.get("main_train")), minlength=8).tolist()
    if found not in (expected, [*expected, 0, 0]):
        raise Lost(f"train_counts is {found}, not {expected}, the numbers of training images of classes 0-7")


# Question 5


def features(network, state=None):
    """Return the inputs of linear layers after the second for fixed images; a backbone's features are among them."""
    copied = copy.deepcopy(network).cpu().eval()
    if state:
        copied.load_state_dict(state)
    with torch.no_grad(), Trace() as trace:
        copied(torch.linspace(-2, 2, 4 * 3 * 48 * 48).sin().view(4, 3, 48, 48))
    return [call.args[0] for call in trace.of("linear")[2:]]


def head_of(run):
    """Return the parameters of the head of transfer_model."""
    head = look_at(run.get("transfer_model")).head
    if None in head:
        raise Undecided("the head of transfer_model could not be seen")
    return head


def check_frozen(run):
    parameters, head = {id(p): p for p in run.get("transfer_model").parameters()}, ids(head_of(run))
    free = {key for key, p in parameters.items() if p.requires_grad}
    moved = set().union(*(each.moved for each in run.forwards_of("transfer_model"))) or free
    if moved - head:
        count = sum(parameters[key].numel() for key in moved - head)
        raise Lost(f"the backbone is not frozen: {count:,} of its parameters have gradients")
    if not head <= free:
        raise Lost("the head is frozen too")


def check_transfer_training(run):
    check_optimizer(run, "transfer_model", head_of(run), 0.005)
    check_training(run, "transfer_model", "transfer_train", (run.get("TRANSFER_EPOCHS"), 20))
    check_history(run, "transfer_model", "transfer_test")


def check_backbone(run):
    network = run.get("transfer_model")
    found = features(network, run.start.get(ids(network.parameters())))
    if not found or not run.features:
        raise Undecided("the features of the backbone could not be seen")
    if not any(same(a, b) for a in found for b in run.features):
        raise Lost("transfer_model does not start from the weights trained in question 3")


TESTS = {
    "q1_read": check_read,
    "q1_sizes": check_sizes,
    "q1_disjoint": check_disjoint,
    "q1_labels": check_labels,
    "q1_statistics": check_statistics,
    "q1_transform": check_transform,
    "q1_train_loader": lambda run: check_loaders(run, "train"),
    "q1_test_loader": lambda run: check_loaders(run, "test"),
    "q2_layers": check_layers,
    "q2_relu": lambda run: check_operations("fcn", look_at(run.get("fcn")), FCN, ACTIVATIONS),
    "q2_logits": check_fcn_logits,
    "q2_optimizer": lambda run: check_optimizer(run, "fcn", [*run.get("fcn").parameters()], 0.001),
    "q2_gradients": check_gradients,
    "q2_training_images": lambda run: check_training(run, "fcn", "main_train", (run.get("EPOCHS"), 50)),
    "q2_history": lambda run: check_history(run, "fcn", "main_test"),
    "q3_convolutions": check_convolutions,
    "q3_pooling": lambda run: check_operations("cnn", look_at(run.get("cnn")), CNN, ACTIVATIONS | LAYERS),
    "q3_features": check_features,
    "q3_head": check_cnn_head,
    "q3_optimizer": lambda run: check_optimizer(run, "cnn", [*run.get("cnn").parameters()], 0.002),
    "q3_training": check_cnn_training,
    "q4_matrices": check_matrices,
    "q4_counts": check_counts,
    "q5_frozen": check_frozen,
    "q5_head": lambda run: check_head(run, "transfer_model", 2),
    "q5_optimizer": check_transfer_training,
    "q5_backbone": check_backbone,
}


def start(names, file):
    """Watch a notebook in a kernel whose names are `names`, with `file` as its data."""
    from IPython import get_ipython

    run = Judge(names, file)
    stand_in(file)
    epochs, shell = int(os.environ["GALAXY10_EPOCHS"]), get_ipython()
    shell.input_transformers_post.append(lambda lines: [fit_numbers("".join(lines), run.counts, epochs)])
    shell.events.register("post_run_cell", lambda result: run.after_cell(result.info.raw_cell, result.error_in_exec))
    names["_mark"] = run.mark
    run.__enter__()

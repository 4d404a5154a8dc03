"""The tests of the course: they judge what a network computes and what a training did, not how it is spelled.

`start(names, file)` watches a notebook run: the batches that its loaders give, the outputs of its networks, its losses
and the steps of its optimizers. `Watch.mark(test)` then gives the points, or raises `Lost` with a reason, or
`Undecided` when it cannot see what it needs. This file lies in the course's folder; the run imports it.
"""

import copy
import importlib.util
import io
import itertools
import os
import re
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import h5py
import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torch.utils.weak import WeakIdKeyDictionary
from torchvision import transforms

SETS = ("main_train", "main_test", "transfer_train", "transfer_test")
NETWORKS = ("fcn", "cnn", "transfer_model")
FINALS = {
    "": lambda outputs: outputs,
    "log_softmax": lambda outputs: outputs.log_softmax(1),
    "softmax": lambda outputs: outputs.softmax(1),
    "sigmoid": torch.sigmoid,
    "ReLU": torch.relu,
}
ONLY_DRAW = ("seaborn", "torchsummary", "torchinfo", "torchviz")  # packages that may be missing where this runs


class Lost(AssertionError):
    """The points are not given, for this reason."""


class Undecided(Exception):
    """The test could not see what it needs; the teacher decides."""


# What the run looks like to the student's code


def on_cpu(value):
    """Return the CPU in place of the name of a GPU."""
    is_gpu = isinstance(value, (str, torch.device)) and str(value).partition(":")[0] in ("cuda", "mps")
    return torch.device("cpu") if is_gpu else value


def fit_numbers(source, counts, epochs):
    """Return source with Galaxy10's numbers of images and epochs, where they are written out, as this run has them."""
    main, transfer = counts
    main_train, transfer_train = round(18000 / 20360 * main), round(1000 / 1425 * transfer)
    fitting = {18000: main_train, 20360: main, 2360: main - main_train, 1425: transfer, 425: transfer - transfer_train}
    fitting |= {21785: main + transfer}

    def fit(line):
        here = dict(fitting)
        if re.search(r"transfer|\b425\b", line, re.IGNORECASE):
            here[1000] = transfer_train
        if re.search(r"epoch|train\w*\(", line, re.IGNORECASE):
            here[50] = epochs
        return re.sub(r"(?<![\w.])\d[\d_]*(?![\w.])", lambda n: str(here.get(int(n[0]), n[0])), line)

    return "".join(map(fit, source.splitlines(keepends=True)))


def stand_in(file):
    """Put stand-ins where the student's code asks for Colab, a download, a GPU or a package that only draws."""
    colab = ModuleType("google.colab")
    colab.drive = colab.files = colab.userdata = colab.output = MagicMock()
    google = sys.modules.get("google") or ModuleType("google")
    google.colab = colab
    sys.modules |= {"google": google, "google.colab": colab, "google.colab.patches": MagicMock()}
    sys.modules |= {name: MagicMock() for name in ONLY_DRAW if importlib.util.find_spec(name) is None}
    sys.modules |= {"torchsummary": MagicMock()}  # the package wants a true GPU

    class File(h5py.File):
        def __init__(self, name, *args, **kwargs):
            super().__init__(name if os.path.exists(name) else file, *args, **kwargs)

    def urlretrieve(url, filename="Galaxy10.h5", *_, **__):
        if not os.path.exists(filename):
            shutil.copy(file, filename)
        return filename, None

    h5py.File, urllib.request.urlretrieve = File, urlretrieve
    urllib.request.urlopen = lambda *_, **__: io.BytesIO(Path(file).read_bytes())
    for name in ("synchronize", "empty_cache", "get_device_name", "get_device_properties", "memory_allocated"):
        setattr(torch.cuda, name, lambda *_, **__: "CPU")


@dataclass
class Loss:
    """A call of a loss function: its name, what it got, whether for each class the same, and its mean."""

    function: str
    outputs: torch.Tensor
    is_plain: bool
    mean: float


@dataclass
class Forward:
    """A batch that a network was given: of which set, and what the network made of it after how many steps."""

    network: str
    dataset: str | None
    target: torch.Tensor | None
    outputs: torch.Tensor
    steps: int


@dataclass
class Step:
    """A step of an optimizer for a network: its rate, whether gradients were left over, what had gradients."""

    optimizer: torch.optim.Optimizer
    rate: float
    forward: Forward | None
    loss: Loss | None
    leftover: bool
    moving: set


class Watch(TorchFunctionMode):
    """What happens while a notebook runs whose names are `names`."""

    def __init__(self, names, file):
        super().__init__()
        self.names, self.file, self.is_active = names, file, True
        self.values = []  # images, labels, mean, std after each cell
        self.batches, self.last_batch = WeakIdKeyDictionary(), (None, None)
        self.forwards, self.steps = [], {name: [] for name in NETWORKS}
        self.forward = self.loss = self.optimizer = None
        self.leftover, self.backwards = False, {}  # sets of images that backward was called for, by network
        self.start, self.faults, self.lost, self.question = {}, set(), set(), None
        self.has_blank = self.is_blank = False  # whether a cell since the last test, or of the question, is empty
        with h5py.File(file, "r") as opened:
            images, labels = torch.tensor(np.array(opened["images"])), np.array(opened["ans"]).astype(int)
        self.label_of = dict(zip(keys(images), labels.tolist(), strict=True))
        self.counts = int((labels < 8).sum()), int((labels >= 8).sum())

    def __enter__(self):
        self.iterate = DataLoader.__iter__
        DataLoader.__iter__ = lambda loader: self.watch_loader(loader)
        self.handles = [
            torch.nn.modules.module.register_module_forward_hook(self.after_forward),
            register_optimizer_step_pre_hook(self.before_step),
        ]
        return super().__enter__()

    def __exit__(self, *error):
        DataLoader.__iter__ = self.iterate
        for handle in self.handles:
            handle.remove()
        super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tuple(map(on_cpu, args)), {key: on_cpu(value) for key, value in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            return args[0]
        if self.is_active and func is torch.Tensor.backward:
            self.before_backward()
        result = func(*args, **kwargs)
        if self.is_active and func in (F.cross_entropy, F.nll_loss) and result.requires_grad:
            self.after_loss(result, func.__name__, *args, **kwargs)
        return result

    def watch_loader(self, loader):
        """Yield the batches of a loader, and keep which set they are of."""
        known = [name for name in SETS if self.names.get(f"{name}_loader") is loader]
        known += [name for name in SETS if self.names.get(name) is loader.dataset]
        for batch in self.iterate(loader):
            if self.is_active and isinstance(batch, (list, tuple)) and len(batch) == 2:
                self.last_batch = known[0] if known else None, batch[1]
                self.batches[batch[0]] = self.last_batch
            yield batch

    def after_forward(self, module, args, outputs):
        """Keep what one of the three networks has made of a batch."""
        network = next((name for name in NETWORKS if self.names.get(name) is module), None)
        is_batch = args and torch.is_tensor(outputs) and bool(args[0].any())  # not the zeros of the students' checks
        if self.is_active and network and is_batch:
            dataset, target = self.batches.get(args[0], self.last_batch)
            if target is None or len(target) != len(outputs):
                dataset, target = None, None
            elif target.ndim == 2:
                target = target.argmax(1)
            forward = Forward(network, dataset, target, outputs.detach().clone(), len(self.steps[network]))
            self.forwards.append(forward)
            self.forward = forward if outputs.requires_grad else self.forward

    def after_loss(self, result, function, outputs, target, weight=None, *_, reduction="mean", **options):
        """Keep what a loss function got and gave."""
        mean = result.detach().sum().item() / (1 if reduction == "mean" else len(target))
        is_plain = weight is None and not options.get("label_smoothing")
        self.loss = Loss(function, outputs.detach().clone(), is_plain, mean)

    def before_backward(self):
        """Keep whether gradients of the step before are left, and of which set the batch is."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]] if self.optimizer else []
        self.leftover = any(p.grad is not None and bool(p.grad.any()) for p in parameters)
        if self.forward:
            self.backwards.setdefault(self.forward.network, set()).add(self.forward.dataset)

    def before_step(self, optimizer, args, kwargs):
        """Keep a step of an optimizer, and the weights of its network before the first one."""
        given = {id(p) for group in optimizer.param_groups for p in group["params"]}
        modules = {name: self.names[name] for name in NETWORKS if isinstance(self.names.get(name), torch.nn.Module)}
        network = next((name for name in modules if given <= {id(p) for p in modules[name].parameters()}), None)
        if self.is_active and network:
            named = dict(modules[network].named_parameters())
            if network not in self.start:
                self.start[network] = {name: p.detach().clone() for name, p in named.items()}
            moving = {name for name, p in named.items() if p.requires_grad and p.grad is not None}
            rate, leftover = float(optimizer.param_groups[0]["lr"]), self.leftover and self.optimizer is optimizer
            self.steps[network].append(Step(optimizer, rate, self.forward, self.loss, leftover, moving))
        self.optimizer, self.forward, self.loss = optimizer, None, None

    def after_cell(self, source):
        """Keep the values of names that are often used again, and whether the student has left a cell empty."""
        self.values.append({name: self.names.get(name) for name in ("images", "labels", "mean", "std")})
        self.has_blank |= not re.sub(r"#.*", "", source).strip()

    def get(self, name):
        """Return the value of a name. Raises Undecided when it does not exist."""
        if self.names.get(name) is None:
            raise Undecided(f"{name} is missing")
        return self.names[name]

    def mark(self, test):
        """Run a test. Raises Lost or Undecided; whatever else goes wrong in it is Undecided too."""
        if test[:2] != self.question:
            self.question, self.is_blank, self.has_blank = test[:2], self.has_blank, False
        self.is_active = False
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                TESTS[test](self)
        except (Lost, Undecided) as error:
            self.lost.add(test)
            if isinstance(error, Undecided) and self.is_blank:
                raise Lost(f"{error}, and a cell of the question is empty") from None
            raise error.with_traceback(None) from None
        except BaseException as error:
            raise Undecided(f"{type(error).__name__}: {error}") from None
        finally:
            PROVIDED.get(test, lambda _: None)(self)
            self.is_active = True


# Question 1


def keys(images):
    """Return images of any type and scale as bytes, the colours first, one key each."""
    if isinstance(images, (list, tuple)):
        images = torch.stack([torch.as_tensor(image) for image in images])
    images = torch.as_tensor(images)
    images = images.movedim(-1, 1) if images.shape[-1] == 3 else images
    if images.is_floating_point():
        images = (images + 1) * 127.5 if images.min() < 0 else images * (255 if images.max() <= 1 else 1)
        images = images.round()
    return [image.tobytes() for image in images.to(torch.uint8).contiguous().numpy()]


def pictures(dataset):
    """Return the whole images that a set reads. Raises Undecided for a set of an unknown kind."""
    if isinstance(dataset, Subset):
        inner = pictures(dataset.dataset)
        return [inner[int(index)] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [image for each in dataset.datasets for image in pictures(each)]
    data = dataset.tensors[0] if isinstance(dataset, TensorDataset) else getattr(dataset, "data", None)
    if data is None:
        raise Undecided(f"the images of a {type(dataset).__name__} could not be seen")
    return data


def labels_of(dataset):
    """Return the labels of a set, by reading it; one-hot ones as numbers."""
    labels = [torch.as_tensor(dataset[index][1]) for index in range(len(dataset))]
    return [int(label.argmax()) if label.numel() > 1 else int(label) for label in labels]


def short(values):
    """Return numbers as text, rounded."""
    return "[" + ", ".join(f"{value:.3g}" for value in torch.as_tensor(values).flatten().tolist()) + "]"


def crop_statistics(keys):
    """Return mean and standard deviation of each colour, 0-255, over random crops of images."""
    images = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), 3, 69, 69).float()
    crops = torch.stack([transforms.RandomCrop(48)(image) for image in images])
    return crops.mean((0, 2, 3)), crops.std((0, 2, 3))


def check_read(run):
    pairs = [(each["images"], each["labels"]) for each in run.values]
    pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not pairs:
        raise Undecided("images and labels are missing")
    wrong = "labels are not those of the images"
    for images, labels in {tuple(map(id, pair)): pair for pair in pairs}.values():
        if np.shape(images)[:1] != np.shape(labels)[:1] or np.ndim(images) != 4:
            continue
        found, labels = keys(images), torch.as_tensor(labels)
        labels = (labels.argmax(1) if labels.ndim == 2 else labels.flatten()).tolist()
        if set(found) != set(run.label_of):
            wrong = "images are not those of the file"
        elif [run.label_of[key] for key in found] == [int(label) for label in labels]:
            return
    raise Lost(wrong)


def check_sizes(run):
    for task, total in zip(("main", "transfer"), run.counts, strict=True):
        train = round(18000 / 20360 * total) if task == "main" else round(1000 / 1425 * total)
        sizes = [len(run.get(f"{task}_{subset}")) for subset in ("train", "test")]
        if sizes != [train, total - train]:
            raise Lost(f"{task}: {sizes[0]} images to train and {sizes[1]} to test, not {train} and {total - train}")


def check_disjoint(run):
    for task in ("main", "transfer"):
        train, test = (keys(pictures(run.get(f"{task}_{subset}"))) for subset in ("train", "test"))
        if shared := len(set(train) & set(test)):
            raise Lost(f"{shared} images are both in {task}_train and in {task}_test")
        for name, found in (("train", train), ("test", test)):
            if len(set(found)) < len(found):
                raise Lost(f"{len(found) - len(set(found))} images are twice in {task}_{name}")


def check_labels(run):
    for name in SETS:
        found = keys(pictures(run.get(name)))
        if not set(found) <= set(run.label_of):
            raise Undecided(f"the images of {name} were not recognised")
        expected = [run.label_of[key] - 8 * name.startswith("transfer") for key in found]
        wrong = sum(a != b for a, b in zip(labels_of(run.get(name)), expected, strict=True))
        if wrong:
            raise Lost(f"{wrong} of {len(expected)} labels of {name} are not those of their images")


def check_statistics(run):
    pairs = [(each["mean"], each["std"]) for each in run.values]
    transform = getattr(run.names.get("main_train"), "transform", None)
    used = [each for each in getattr(transform, "transforms", [transform]) if isinstance(each, transforms.Normalize)]
    pairs += [(each.mean, each.std) for each in used]
    pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not pairs:
        raise Undecided("mean and std are missing")
    mean, std = crop_statistics([key for key, label in run.label_of.items() if label < 8])
    scales = ((mean, std), (mean / 255, std / 255), (mean / 127.5 - 1, std / 127.5))
    for pair in pairs:
        found = [torch.as_tensor(value).flatten().float() for value in pair]
        found = [value.expand(3) if len(value) == 1 else value for value in found]
        for expected in scales:
            near = 0.06 * (expected[0].abs() + 0.2 * expected[1]), 0.06 * expected[1]
            if all(((a - b).abs() < gap).all() for a, b, gap in zip(found, expected, near, strict=True)):
                return
    raise Lost(f"mean and std are {short(pairs[0][0])} and {short(pairs[0][1])}; random crops of the pixels 0-255 have "
               f"{short(mean)} and {short(std)}")  # fmt: skip


def check_transform(run):
    mean, std = crop_statistics([key for key, label in run.label_of.items() if label < 8])
    for name in SETS:
        dataset = run.get(name)
        crops = [torch.as_tensor(dataset[index][0]) for index in range(min(len(dataset), 300))]
        crops = torch.stack(crops).float()
        if tuple(crops.shape[1:]) != (3, 48, 48):
            raise Lost(f"a crop of {name} is {tuple(crops.shape[1:])}, not (3, 48, 48)")
        own = crop_statistics(keys(pictures(dataset)))  # classes 8 and 9 are brighter than the others
        expected, found = ((own[0] - mean) / std, own[1] / std), (crops.mean((0, 2, 3)), crops.std((0, 2, 3)))
        gaps = (found[0] - expected[0]) / expected[1], (found[1] / expected[1]).log()
        if max(gap.abs().max() for gap in gaps) > 0.5:
            text = [short(value) for value in (*found, *expected)]
            raise Lost(f"the crops of {name} have means of {text[0]} and standard deviations of {text[1]}; normalised "
                       f"like all others they would have {text[2]} and {text[3]}")  # fmt: skip
    if len({torch.as_tensor(run.get("main_train")[0][0]).numpy().tobytes() for _ in range(10)}) < 4:
        raise Lost("the crops of an image of main_train are always the same")


def check_loaders(run, subset):
    """Look at the loaders of both tasks for one subset: batches of 64, all images, shuffled for training only."""
    for name in (f"main_{subset}", f"transfer_{subset}"):
        loader, expected = run.get(f"{name}_loader"), labels_of(run.get(name))
        batches = [[torch.as_tensor(target) for _, target in loader] for _ in range(2)]
        batches = [[each.argmax(1) if each.ndim == 2 else each for each in one] for one in batches]
        passes = [torch.cat(one).tolist() for one in batches]
        if len(batches[0][0]) != min(64, len(expected)):
            raise Lost(f"{name}_loader gives batches of {len(batches[0][0])} images, not 64")
        complete = {len(expected), len(expected) // 64 * 64} if subset == "train" else {len(expected)}
        if len(passes[0]) not in complete:
            raise Lost(f"{name}_loader gives {len(passes[0])} of the {len(expected)} images")
        if subset == "train" and passes[0] == passes[1]:
            raise Lost(f"{name}_loader is not shuffled")
        if subset == "test" and passes[0] != passes[1]:
            raise Lost(f"{name}_loader is shuffled")
        if subset == "test" and passes[0] != expected:
            raise Lost(f"{name}_loader gives the images in another order than {name}")


# Networks


class Trace(TorchFunctionMode):
    """The layers that a network uses, in order, as pairs of name and arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls.append((func.__name__.strip("_"), args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def look_at(network, images=None):
    """Return what a network computes: the layers that it uses, and which ReLUs and which last function reproduce it.

    A copy with random weights is compared with a reference of the same weights, with and without each ReLU.
    """
    copied = copy.deepcopy(network).cpu().eval()
    images = torch.randn(16, 3, 48, 48) if images is None else images
    with torch.no_grad():
        copied(images)  # layers that are made when they are first used
        for parameter in copied.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
        with Trace() as trace:
            outputs = copied(images)
        is_random = not same(copied.train()(images), outputs)
    calls = {name: [args for each, args, _ in trace.calls if each == name] for name in ("conv2d", "linear")}
    looks = SimpleNamespace(outputs=outputs, is_random=is_random, relus=None, final=None)
    looks.operations = [
        f"{name} by {args[1]}" if name == "max_pool2d" and len(args) > 1 else name
        for name, args, _ in trace.calls
        if name in OPERATIONS
    ]
    looks.convolutions = [(tuple(args[1].shape), args[3:5]) for args in calls["conv2d"]]
    looks.linears = [tuple(args[1].shape) for args in calls["linear"]]
    own = {id(p): original for p, original in zip(copied.parameters(), network.parameters(), strict=True)}
    looks.weights = [own.get(id(args[1])) for args in (*calls["conv2d"], *calls["linear"])]
    looks.head = [own.get(id(each)) for each in calls["linear"][-1][1:3]] if calls["linear"] else []
    count = len(looks.convolutions) + len(looks.linears) - 1
    for relus in itertools.product((True, False), repeat=max(count, 0)):
        try:
            expected = reference(images, calls, (*relus, False))
        except (RuntimeError, IndexError):
            break  # the layers do not fit together in this way
        final = next((name for name, function in FINALS.items() if same(function(expected), outputs)), None)
        if final is not None:
            looks.relus, looks.final = relus, final
            break
    return looks


OPERATIONS = ("conv2d", "linear", "relu", "max_pool2d", "dropout", "avg_pool2d", "leaky_relu", "gelu", "elu", "silu")
OPERATIONS += (
    "tanh",
    "sigmoid",
    "softmax",
    "log_softmax",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "adaptive_avg_pool2d",
)


def same(first, second):
    """Return whether two outputs agree but for rounding."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def reference(images, calls, relus):
    """Return what convolutions, each with a max-pooling by 2, and linear layers make of images, with these ReLUs."""
    relus = iter(relus)
    for args in calls["conv2d"]:
        images = F.conv2d(images, *args[1:])
        images = F.max_pool2d(images.relu() if next(relus) else images, 2)
    images = images.flatten(1)
    for args in calls["linear"]:
        images = F.linear(images, *args[1:3])
        images = images.relu() if next(relus) else images
    return images


def check_layers(run):
    looks = look_at(run.get("fcn"))
    if not looks.linears:
        raise Undecided("the layers of fcn could not be seen")
    if looks.linears != [(64, 6912), (8, 64)]:
        raise Lost(f"the linear layers of fcn have weights of {looks.linears}, not (64, 6912) and (8, 64)")
    if looks.is_random:
        raise Lost("fcn has dropout, or another layer that acts differently in training")


def check_relu(run):
    check_relus("fcn", look_at(run.get("fcn")))


def check_relus(name, looks):
    """Raise Lost where a network does not have its ReLUs and max-poolings, and nothing else between its layers."""
    if looks.relus is None and "linear" in looks.operations:
        raise Lost(f"{name} computes {', '.join(looks.operations)}: not the layers that were asked for")
    if looks.relus is None:
        raise Undecided(f"the layers of {name} could not be seen")
    if not all(looks.relus):
        after = [f"{number + 1}" for number, there in enumerate(looks.relus) if not there]
        raise Lost(f"{name} has no ReLU after layer {' and '.join(after)} of {len(looks.relus) + 1}")


def check_logits(run):
    final = look_at(run.get("fcn")).final
    step = next((step for step in run.steps["fcn"] if step.loss and step.forward), None)
    if step is None:
        check_final("fcn", final, "cross_entropy")
        raise Undecided("no training of fcn with nn.CrossEntropyLoss was seen")
    if len(step.forward.outputs) != len(step.loss.outputs):
        raise Undecided("the loss is computed of other outputs than those of fcn")
    run.between = next((name for name in FINALS if same(FINALS[name](step.forward.outputs), step.loss.outputs)), None)
    if run.between is None:
        raise Undecided("what the loss function gets is not the output of fcn")
    if not step.loss.is_plain:
        run.faults |= {"train_loss", "test_loss"}  # which then have them too
        raise Lost("the loss function has class weights or label smoothing")
    check_final("fcn", run.between or final, step.loss.function)
    check_final("fcn", final, step.loss.function if not run.between else "cross_entropy")


def check_final(name, final, function):
    """Raise Lost when the loss function does not fit the last function that the logits go through."""
    if function == "nll_loss" and final is not None and final != "log_softmax":
        raise Lost(f"nn.NLLLoss needs log-probabilities, and gets the {final or 'logits'} of {name}")
    if final in ("softmax", "sigmoid"):
        raise Lost(f"nn.CrossEntropyLoss gets the {final} of the logits of {name}, and has a softmax already")
    if final == "ReLU":
        raise Lost(f"the logits of {name} go through a ReLU, so none can be negative")


# Training


def check_optimizer(run, name, optimizer, parameters, rate):
    """Raise Lost unless a network was trained by Adam, with these parameters and this rate all the time."""
    steps = run.steps[name]
    optimizer = steps[0].optimizer if steps else run.get(optimizer)
    if type(optimizer) is not torch.optim.Adam:
        raise Lost(f"the optimizer of {name} is {type(optimizer).__name__}, not Adam")
    rates = sorted({step.rate for step in steps} | {float(group["lr"]) for group in optimizer.param_groups})
    is_scheduled = any("initial_lr" in group for group in optimizer.param_groups) or any(
        isinstance(value, ReduceLROnPlateau) and value.optimizer is optimizer for value in run.names.values()
    )
    if len(rates) > 1 or is_scheduled:
        raise Lost(f"the learning rate of {name} has a schedule, and was to be {rate}")
    if not np.isclose(rates[0], rate):
        raise Lost(f"the learning rate of {name} is {rates[0]}, not {rate}")
    given = {id(p): p.numel() for group in optimizer.param_groups for p in group["params"]}
    if set(given) != {id(p) for p in parameters}:
        expected = sum(p.numel() for p in parameters)
        raise Lost(f"the optimizer of {name} has {sum(given.values()):,} parameters; it was to have {expected:,}")


def check_gradients(run):
    steps = run.steps["fcn"]
    if len(steps) < 2:
        raise Undecided("no training of fcn was seen")
    if any(step.leftover for step in steps):
        raise Lost("gradients add up from step to step: zero_grad is missing, or at the wrong place")


def epochs_of(run, name, subset):
    """Return the number of epochs that a network was trained, or None, and the number of steps of each."""
    loader = run.names.get(f"{subset}_loader")
    count = len(loader) if isinstance(loader, DataLoader) else -(-len(run.get(subset)) // 64)
    epochs, rest = divmod(len(run.steps[name]), count)
    return None if rest else epochs, count


def fault(run, kind, reason):
    """Raise Lost for a fault of `train`, but only the first time."""
    if kind not in run.faults:
        run.faults.add(kind)
        raise Lost(reason)


def check_training(run, name, subset, epochs):
    """Raise Lost unless a network was trained on this set, by whole epochs, and for one of these numbers of them."""
    steps = run.steps[name]
    if not steps:
        raise Lost(f"{name} was not trained: no optimizer has made a step for its parameters")
    others = {step.forward.dataset for step in steps if step.forward} - {None, subset}
    if others:
        kind = next(iter(others)).partition("_")[2]
        return fault(run, kind, f"{name} is trained on the images of {' and '.join(sorted(others))}")
    wrong = run.backwards.get(name, set()) - {None, subset}
    if wrong:
        return fault(run, "backward", f"backward is also called for images of {' and '.join(sorted(wrong))}")
    found, count = epochs_of(run, name, subset)
    if found not in epochs:
        raise Lost(
            f"the number of training steps of {name} is {len(steps)}; {epochs[0]} epochs have {epochs[0] * count}"
        )
    return None


def sequences(history):
    """Return all lists of numbers in a history of any form, by key where it has keys."""
    if hasattr(history, "to_dict"):
        history = history.to_dict("list")
    if isinstance(history, dict):
        return {f"{key} {inner}".strip(): each for key, value in history.items()
                for inner, each in sequences(value).items()}  # fmt: skip
    if torch.is_tensor(history) or isinstance(history, np.ndarray):
        history = history.tolist()
    if not isinstance(history, (list, tuple)) or not history:
        return {}
    if all(np.ndim(value) == 0 and not isinstance(value, (dict, str)) for value in history):
        return {"": [float(value) for value in history]}
    if all(isinstance(value, dict) for value in history):
        return sequences({key: [each[key] for each in history] for key in history[0]})
    inner = {f"{number} {key}".strip(): each for number, value in enumerate(history)
             for key, each in sequences(value).items()}  # fmt: skip
    if len({len(each) for each in inner.values()}) == 1:
        inner |= {f"column {number}": list(column) for number, column in enumerate(zip(*inner.values(), strict=True))}
    return inner


def passes_of(run, name, subset, steps):
    """Return the whole passes of a network over a set after a number of steps, each a list of batches."""
    passes, batches = [], []
    for forward in run.forwards:
        if (forward.network, forward.dataset, forward.steps) == (name, subset, steps):
            batches.append(forward)
            if sum(len(each.outputs) for each in batches) == len(run.get(subset)):
                passes.append(batches)
                batches = []
    return passes


def means(losses, sizes):
    """Return the mean of losses by batch, over batches and over images; and what is none, by its name."""
    wrong = {"of the last batch alone": losses[-1], "summed over batches": losses.sum()}
    wrong["a sum of means of batches, divided by the number of images"] = losses.sum() / sizes.sum()
    return [losses.mean(), (losses * sizes).sum() / sizes.sum()], wrong


def evaluated(run, name, subset, steps):
    """Return the right and the wrong mean losses and the accuracies of a network's passes over a set."""
    right, wrong, hits = [], {}, []
    for batches in passes_of(run, name, subset, steps):
        sizes = np.array([len(each.outputs) for each in batches])
        for between in {"", getattr(run, "between", None) or ""}:
            losses = [F.cross_entropy(FINALS[between](each.outputs), each.target).item() for each in batches]
            values, others = means(np.array(losses), sizes)
            right, wrong = right + values, wrong | others
        correct = np.array([(each.outputs.argmax(1) == each.target).sum().item() for each in batches])
        accuracies = np.array([correct.sum() / sizes.sum(), (correct / sizes).mean()])
        hits += [*accuracies, *(100 * accuracies)]
    return right, wrong, hits


def check_history(run, name, subset="main_train", tested="main_test"):
    """Raise Lost unless a history has the mean losses and the test accuracies of the training that was seen."""
    history, steps = sequences(run.get(f"{name}_history")), run.steps[name]
    subset = next((step.forward.dataset for step in steps if step.forward and step.forward.dataset), subset)
    epochs, count = epochs_of(run, name, subset)
    if not steps:
        raise Lost(f"{name}_history is of no training: no optimizer has made a step for {name}")
    if not epochs or any(step.loss is None for step in steps):
        raise Undecided(f"the epochs of {name}, or its loss function, could not be seen")
    lists = [each for each in history.values() if len(each) == epochs]
    if not lists:
        raise Lost(f"{name}_history has no list of {epochs} numbers, one for each epoch")
    expected = {"train_loss": [], "test_loss": [], "test_accuracy": []}
    mistaken = {"train_loss": [], "test_loss": [], "test_accuracy": []}
    for epoch in range(epochs):
        done = steps[epoch * count : (epoch + 1) * count]
        losses, sizes = np.array([(step.loss.mean, len(step.loss.outputs)) for step in done]).T
        right, wrong = means(losses, sizes)
        after = [evaluated(run, name, each, (epoch + 1) * count) for each in (subset, tested)]
        expected["train_loss"].append(right + after[0][0])
        expected["test_loss"].append(after[1][0])
        expected["test_accuracy"].append(after[1][2])
        mistaken["train_loss"].append(wrong)
        mistaken["test_loss"].append(after[1][1] | {"of the training images": (after[0][0] or [np.nan])[-1]})
        mistaken["test_accuracy"].append({"of the training images": (after[0][2] or [np.nan])[0]})

    def found(values):
        """Return whether a list agrees in each epoch with one of the values of that epoch."""
        for one in lists:
            near = [np.isclose(mine, each, rtol=5e-3, atol=1e-3).any() for mine, each in zip(one, values, strict=True)]
            if all(near):
                return True
        return False

    for kind, values in expected.items():
        if found(values):
            continue
        for what in mistaken[kind][0]:
            if found([[each.get(what, np.nan)] for each in mistaken[kind]]):
                return fault(run, kind, f"{kind} in {name}_history is {what}")
        if not all(values):
            raise Undecided(f"no pass of {name} over {tested} was seen after each epoch")
        text = ", ".join(f"{each[-1]:.3f}" for each in values)
        return fault(run, kind, f"{name}_history does not have the {kind} of this training, {text}")
    return None


# Questions 3 to 5


def check_convolutions(run):
    looks = look_at(run.get("cnn"))
    if not looks.convolutions:
        raise Undecided("the convolutions of cnn could not be seen")
    shapes = [shape for shape, _ in looks.convolutions]
    if shapes != [(8, 3, 5, 5), (16, 8, 5, 5)]:
        raise Lost(f"the convolutions have weights of {shapes}, not (8, 3, 5, 5) and (16, 8, 5, 5)")
    for number, (_, options) in enumerate(looks.convolutions, 1):
        stride, padding = [*options, *((1, 1), (0, 0))[len(options) :]]
        if {stride} - {1, (1, 1)} or {padding} - {0, (0, 0), "valid"}:
            raise Lost(f"convolution {number} has a stride of {stride} and a padding of {padding}, not 1 and 0")


def check_pooling(run):
    looks = look_at(run.get("cnn"))
    if looks.is_random:
        raise Lost("cnn has dropout, or another layer that acts differently in training")
    check_relus("cnn", looks)


def check_features(run):
    linears = look_at(run.get("cnn")).linears[:-1]
    if [shape[0] for shape in linears] != [128, 64]:
        raise Lost(f"the linear layers before the head give {[shape[0] for shape in linears]} outputs, not 128 and 64")
    backbone = run.names.get("cnn_backbone")
    if isinstance(backbone, torch.nn.Module) and look_at(backbone).outputs.shape != (16, 64):
        raise Lost(f"cnn_backbone gives {tuple(look_at(backbone).outputs.shape[1:])} of an image, not 64 features")


def check_head(run):
    network = run.get("cnn")
    looks = look_at(network)
    if not looks.linears:
        raise Undecided("the layers of cnn could not be seen")
    if looks.linears[-1][0] != 8:
        raise Lost(f"the last layer gives {looks.linears[-1][0]} outputs, not 8")
    loss = next((step.loss.function for step in run.steps["cnn"] if step.loss), "cross_entropy")
    check_final("cnn", looks.final, loss if looks.final != "" else "cross_entropy")
    parts = [run.names.get(name) for name in ("cnn_backbone", "classifier_head")]
    if all(isinstance(part, torch.nn.Module) for part in parts):
        copied = copy.deepcopy(torch.nn.ModuleList([network, *parts])).eval()
        images = torch.randn(4, 3, 48, 48)
        with torch.no_grad():
            whole, stacked = copied[0](images), copied[2](copied[1](images))
        if not same(whole, stacked) and not same(whole, stacked.log_softmax(1)):
            raise Lost("cnn is not classifier_head on cnn_backbone")


def check_cnn_training(run):
    check_training(run, "cnn", "main_train", (run.get("EPOCHS"), 50))
    if not run.faults:  # those of `train` were found in question 2
        check_history(run, "cnn")


def keep_backbone(run):
    run.trained = [None if each is None else each.detach().clone() for each in look_at(run.names["cnn"]).weights]


def matrices(run, name, subset):
    """Return the confusion matrices of all passes of a network over a set since its last step."""
    passes = passes_of(run, name, subset, len(run.steps[name]))
    pairs = [torch.cat([each.target * 8 + each.outputs.argmax(1) for each in batches]) for batches in passes]
    return [torch.bincount(each, minlength=64).view(8, 8).numpy() for each in pairs]


def check_matrices(run):
    expected = {name: matrices(run, name, "main_test") for name in ("fcn", "cnn")}
    size = len(run.get("main_test"))
    for name, other in (("fcn", "cnn"), ("cnn", "fcn")):
        matrix = np.asarray(run.get(f"{name}_confusion"))
        kept = [each.any(0) | each.any(1) for each in expected[name]]  # without labels= absent classes have no row
        if any(np.array_equal(matrix, each) or np.array_equal(matrix, each[k][:, k])
               for each, k in zip(expected[name], kept, strict=True)):  # fmt: skip
            continue
        if matrix.ndim == 2 and np.isclose(matrix.sum(), size):
            if any(np.array_equal(matrix.T, each) for each in expected[name]):
                raise Lost(f"the rows of {name}_confusion are the predicted classes, not the true ones")
            if any(np.array_equal(matrix, each) for each in expected[other]):
                raise Lost(f"{name}_confusion is the matrix of {other}")
        elif matrix.ndim == 2:
            raise Lost(f"{name}_confusion counts {matrix.sum():,.0f} images, not each of the {size:,} test images once")
        last = [each for each in run.forwards if each.network == name and each.steps == len(run.steps[name])]
        if not expected[name] or any(each.dataset is None for each in last):
            raise Undecided(f"of which images {name}_confusion is could not be seen")
        raise Lost(f"{name}_confusion is not what {name} predicts: of its passes over main_test none has these counts")


def check_counts(run):
    counts = run.get("train_counts")
    if hasattr(counts, "to_dict"):
        counts = counts.to_dict()
    if isinstance(counts, (tuple, list)) and len(counts) == 2:  # np.unique(..., return_counts=True)
        counts = dict(zip(*(torch.as_tensor(each).tolist() for each in counts), strict=True))
    if isinstance(counts, dict) and all(isinstance(key, (int, np.integer)) for key in counts):
        counts = [counts.get(label, 0) for label in range(8)]
    found = [int(count) for count in (counts.values() if isinstance(counts, dict) else counts)]
    expected = np.bincount(labels_of(run.get("main_train")), minlength=8).tolist()
    if found not in (expected, [*expected, 0, 0]):
        raise Lost(f"train_counts is {found}; the training images of the classes 0-7 are {expected}")


def transfer_head(run):
    """Return how the transferred network looks, and the names of its parameters by whether they are of its head."""
    network = run.get("transfer_model")
    looks = look_at(network)
    if not looks.linears or None in looks.head[:1]:
        raise Undecided("the head of transfer_model could not be seen")
    return looks, {name for name, p in network.named_parameters() if any(p is each for each in looks.head)}


def check_frozen(run):
    _, head = transfer_head(run)
    named = dict(run.get("transfer_model").named_parameters())
    steps = run.steps["transfer_model"]
    moving = set().union(*(step.moving for step in steps)) or {name for name, p in named.items() if p.requires_grad}
    if moving - head:
        count = sum(named[name].numel() for name in moving - head)
        raise Lost(f"the backbone is not frozen: {count:,} of its parameters have gradients")
    if not head <= {name for name, p in named.items() if p.requires_grad}:
        raise Lost("the head is frozen too")


def check_transfer_head(run):
    looks, _ = transfer_head(run)
    if looks.linears[-1] != (2, 64) or len(looks.linears) != 3:
        raise Lost(f"the linear layers of transfer_model have weights of {looks.linears}; its head was to be (2, 64)")
    check_final("transfer_model", looks.final, "cross_entropy" if looks.final != "log_softmax" else "nll_loss")


def check_transfer_optimizer(run):
    _, head = transfer_head(run)
    named = dict(run.get("transfer_model").named_parameters())
    check_optimizer(run, "transfer_model", "transfer_optimizer", [named[name] for name in head], 0.005)
    if run.steps["transfer_model"] or "q1_labels" not in run.lost:  # labels of 8 and 9 end the training
        check_training(run, "transfer_model", "transfer_train", (run.get("TRANSFER_EPOCHS"), 20))


def check_backbone(run):
    looks, _ = transfer_head(run)
    start = run.start.get("transfer_model", {})
    names = {id(p): name for name, p in run.get("transfer_model").named_parameters()}
    found = [None if p is None else start.get(names[id(p)], p) for p in looks.weights[:-1]]
    trained = getattr(run, "trained", [None])[:-1]
    if not trained or any(each is None for each in (*found, *trained)):
        raise Undecided("the weights of the backbone could not be seen")
    trained = trained[: len(found)]  # a head of several layers is judged in question 3
    if [each.shape for each in found] != [each.shape for each in trained]:
        raise Lost("transfer_model does not begin with the layers of the backbone")
    if not all(map(torch.equal, found, trained)):
        raise Lost("transfer_model begins with other weights than question 3 has trained")


# What a question that failed leaves to the next ones


def give_data(run):
    """Give loaders of random images in place of those that are missing or of no use."""
    for task, classes in (("main", 8), ("transfer", 2)):
        for subset, count in (("train", 256), ("test", 96)):
            name, target = f"{task}_{subset}", torch.arange(count) % classes
            try:
                batch, found = next(iter(run.names[f"{name}_loader"]))
                is_usable = tuple(batch.shape) == (len(found), 3, 48, 48) and batch.is_floating_point()
            except Exception:
                is_usable = False
            if not is_usable:
                dataset = TensorDataset(torch.randn(count, 3, 48, 48) + target[:, None, None, None] / 4, target)
                dataset.data, dataset.target = dataset.tensors
                run.names |= {name: dataset, f"{name}_loader": DataLoader(dataset, 64, shuffle=subset == "train")}


def give_training(run):
    """Give a network and a loop where there is none."""

    def train(model, optimizer, train_loader, test_loader, epochs):
        for _ in range(epochs):
            for images, target in train_loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), target).backward()
                optimizer.step()
        with torch.no_grad():
            [model(images) for images, _ in test_loader]
        return {name: [0.0] * epochs for name in ("train_loss", "test_loss", "test_accuracy")}

    fcn = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6912, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    run.faults |= {"train_loss", "test_loss", "test_accuracy"} if "train" not in run.names else set()
    for name, value in (("train", train), ("fcn", fcn)):
        run.names.setdefault(name, value)


def give_backbone(run):
    """Give a network for question 5 where there is none, and keep the weights of its backbone."""
    if "cnn" not in run.names:
        nn = torch.nn
        layers = [nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(1296, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
        backbone = run.names["cnn_backbone"] = nn.Sequential(*layers)
        run.names["cnn"] = nn.Sequential(backbone, nn.Linear(64, 8))
    keep_backbone(run)


PROVIDED = {"q1_test_loader": give_data, "q2_history": give_training, "q3_training": give_backbone}
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
    "q2_relu": check_relu,
    "q2_logits": check_logits,
    "q2_optimizer": lambda run: check_optimizer(run, "fcn", "fcn_optimizer", list(run.get("fcn").parameters()), 0.001),
    "q2_gradients": check_gradients,
    "q2_training_images": lambda run: check_training(run, "fcn", "main_train", (run.get("EPOCHS"), 50)),
    "q2_history": lambda run: check_history(run, "fcn"),
    "q3_convolutions": check_convolutions,
    "q3_pooling": check_pooling,
    "q3_features": check_features,
    "q3_head": check_head,
    "q3_optimizer": lambda run: check_optimizer(run, "cnn", "cnn_optimizer", list(run.get("cnn").parameters()), 0.002),
    "q3_training": check_cnn_training,
    "q4_matrices": check_matrices,
    "q4_counts": check_counts,
    "q5_frozen": check_frozen,
    "q5_head": check_transfer_head,
    "q5_optimizer": check_transfer_optimizer,
    "q5_backbone": check_backbone,
}


def start(names, file):
    """Watch a notebook in a kernel whose names are `names`, with `file` as its data."""
    from IPython import get_ipython

    run = Watch(names, file)
    stand_in(file)
    epochs, shell = int(os.environ["GALAXY10_EPOCHS"]), get_ipython()
    shell.input_transformers_post.append(lambda lines: [fit_numbers("".join(lines), run.counts, epochs)])
    shell.events.register("post_run_cell", lambda result: run.after_cell(result.info.raw_cell))
    names["_mark"] = run.mark
    run.__enter__()

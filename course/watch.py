"""Record batches, outputs, losses and steps while a student's notebook runs, for the tests in judge.py.

Data model: each time a network gets a batch, the watch appends one `Forward`. It records what follows: the call of a
loss function, backward, and the optimizer's step. A pass is all forwards in one iteration over a loader.
"""

import importlib.util
import io
import os
import re
import shutil
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import h5py
import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader
from torch.utils.weak import WeakIdKeyDictionary

SETS = ("main_train", "main_test", "transfer_train", "transfer_test")
# Packages for tables, plots and summaries that Colab has and this machine may lack.
STUBS = ("pandas", "seaborn", "torchsummary", "torchinfo", "torchviz")


class Lost(AssertionError):
    """A test gives no points, for this reason."""


class Undecided(Exception):
    """A test could not see what it needs; the teacher decides."""


def on_cpu(value):
    """Return the CPU if the value is the name of a GPU, else the value."""
    is_gpu = isinstance(value, (str, torch.device)) and str(value).partition(":")[0] in ("cuda", "mps")
    return torch.device("cpu") if is_gpu else value


def train_size(task, total):
    """Return how many of a task's `total` images are for training, in the assignment's proportion."""
    return round(total * (18000 / 20360 if task == "main" else 1000 / 1425))


def fit_numbers(source, counts, epochs):
    """Return source with Galaxy10's literal numbers of images and epochs replaced by this run's.

    counts: the numbers of images of both tasks, main and transfer.
    """
    main, transfer = counts["main"], counts["transfer"]
    main_train, transfer_train = train_size("main", main), train_size("transfer", transfer)
    always = {18000: main_train, 20360: main, 2360: main - main_train, 21785: main + transfer}
    always |= {1425: transfer, 425: transfer - transfer_train}

    def fit(line):
        here = dict(always)
        if re.search(r"transfer|split|\b1?425\b", line, re.IGNORECASE):
            here[1000] = transfer_train
        if re.search(r"epoch|train\w*\(", line, re.IGNORECASE):
            here[20 if "transfer" in line.lower() else 50] = epochs
        return re.sub(r"(?<![\w.])\d[\d_]*(?![\w.])", lambda n: str(here.get(int(n[0]), n[0])), line)

    return "".join(map(fit, source.splitlines(keepends=True)))


def stand_in(file):
    """Replace Colab, downloads, GPUs and missing packages for the student's code."""
    colab = ModuleType("google.colab")
    colab.drive = colab.files = colab.userdata = colab.output = MagicMock()
    google = sys.modules.get("google") or ModuleType("google")
    google.colab = colab
    sys.modules |= {"google": google, "google.colab": colab, "google.colab.patches": MagicMock()}
    Frame = type("DataFrame", (), {"__new__": lambda *_, **__: MagicMock()})  # a type, for other packages' isinstance
    missing = [name for name in STUBS if importlib.util.find_spec(name) is None]
    sys.modules |= {name: MagicMock(DataFrame=Frame, Series=Frame) for name in missing}
    sys.modules |= {"torchsummary": MagicMock()}  # the package needs a real GPU

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


def keys(images):
    """Return a key per image: its bytes, channels first, for images of any dtype and scale."""
    if isinstance(images, (list, tuple)):
        images = torch.stack([torch.as_tensor(image) for image in images])
    images = torch.as_tensor(images)
    images = images.movedim(-1, 1) if images.shape[-1] == 3 else images
    if images.is_floating_point():
        images = (images + 1) * 127.5 if images.min() < 0 else images * (255 if images.max() <= 1 else 1)
        images = images.round()
    return [image.tobytes() for image in images.to(torch.uint8).contiguous().numpy()]


def as_numbers(target):
    """Return labels as a tensor of class numbers, also from one-hot labels."""
    target = torch.as_tensor(target)
    return target.argmax(-1) if target.ndim > 1 and target.shape[-1] > 1 else target.flatten().long()


@dataclass
class Loss:
    """A call of a loss function: its name, its input, and its options, such as class weights."""

    function: str
    outputs: torch.Tensor
    options: dict


@dataclass(eq=False)
class Forward:
    """A batch that a network got, the network's outputs, and what followed.

    dataset, target and iteration (the number of the pass over the loader) are None if no loader gave the batch.
    """

    module: torch.nn.Module
    parameters: frozenset
    dataset: str | None
    target: torch.Tensor | None
    iteration: int | None
    outputs: torch.Tensor
    with_grad: bool
    loss: Loss | None = None
    has_backward: bool = False
    has_leftover: bool = False  # gradients of an earlier step
    optimizer: torch.optim.Optimizer | None = None  # that took a step
    rate: float | None = None
    moved: set = field(default_factory=set)  # ids of the parameters that got gradients


def gradients(module):
    """Return the versions of a module's gradients, by parameter id; backward changes them."""
    return {id(p): p.grad._version for p in module.parameters() if p.grad is not None}


def ids(parameters):
    """Return the ids of parameters, which change if a layer is replaced."""
    return frozenset(map(id, parameters))


class Watch(TorchFunctionMode):
    """Watch a notebook run with the namespace `names`, on the data in `file`."""

    def __init__(self, names, file):
        super().__init__()
        self.names = names
        self.values = []  # after each cell, of names that are often reused
        self.batches, self.batch, self.iterations = WeakIdKeyDictionary(), (None, None, None), 0
        self.forwards, self.forward, self.before = [], None, {}
        self.start, self.optimizers = {}, {}  # networks' states before their first step; all optimizers that took steps
        self.error, self.has_blank = None, False  # the last error in a cell; whether a cell is empty
        with h5py.File(file, "r") as opened:
            images, labels = np.array(opened["images"]), np.array(opened["ans"]).astype(int)
        self.label_of = dict(zip(keys(images), labels.tolist(), strict=True))
        self.counts = {"main": int((labels < 8).sum()), "transfer": int((labels >= 8).sum())}

    def __enter__(self):
        self.watched = {}  # classes of loaders, and how they iterate
        self.watch_class(DataLoader)
        self.handles = [
            torch.nn.modules.module.register_module_forward_hook(self.after_forward),
            register_optimizer_step_pre_hook(self.before_step),
        ]
        return super().__enter__()

    def __exit__(self, *error):
        for loader_class, iterate in self.watched.items():
            loader_class.__iter__ = iterate
        for handle in self.handles:
            handle.remove()
        super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if len(args) == 1 and not kwargs and func is not torch.Tensor.cuda:
            return func(*args)  # most calls: attributes such as shape
        args, kwargs = tuple(map(on_cpu, args)), {key: on_cpu(value) for key, value in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            return args[0]
        if self.forward and func is torch.Tensor.backward:
            self.forward.has_backward, self.before = True, gradients(self.forward.module)
            left = [p.grad for p in self.forward.module.parameters() if p.grad is not None]
            self.forward.has_leftover = any(bool(grad.any()) for grad in left)
        result = func(*args, **kwargs)
        if self.forward and func in (F.cross_entropy, F.nll_loss) and result.requires_grad:
            options = {name: kwargs.get(name) for name in ("weight", "label_smoothing")}
            options = {name: value for name, value in options.items() if torch.is_tensor(value) or value}
            self.forward.loss = Loss(func.__name__, args[0].detach().clone(), options)
        return result

    def watch_class(self, loader_class):
        """Watch the passes over all loaders of a class."""
        if loader_class not in self.watched:
            iterate = self.watched[loader_class] = loader_class.__iter__
            loader_class.__iter__ = lambda loader: self.watch_pass(loader, iterate(loader))

    def watch_pass(self, loader, batches):
        """Yield the batches of a pass over a loader; record to which set and pass they belong."""
        known = [name for name in SETS if self.names.get(f"{name}_loader") is loader]
        known += [name for name in SETS if self.names.get(name) is getattr(loader, "dataset", loader)]
        self.iterations += 1
        number = self.iterations
        for batch in batches:
            if isinstance(batch, (list, tuple)) and len(batch) == 2:
                self.batch = known[0] if known else None, as_numbers(batch[1]), number
                self.batches[batch[0]] = self.batch
            yield batch

    def after_forward(self, module, args, outputs):
        """Record the outputs of a network for a batch. Submodules end before it, so the whole network comes last."""
        if not args or not torch.is_tensor(args[0]) or not torch.is_tensor(outputs):
            return
        if outputs.ndim != 2 or next(module.parameters(), None) is None or not args[0].any():  # as the checks' zeros
            return
        known = self.batches.get(args[0], self.batch)
        if known[1] is None or len(known[1]) != len(outputs):
            known = None, None, None
        forward = Forward(module, ids(module.parameters()), *known, outputs.detach().clone(), outputs.requires_grad)
        self.forwards.append(forward)
        self.forward = forward if outputs.requires_grad else self.forward

    def before_step(self, optimizer, args, kwargs):
        """Record an optimizer's step and, before the first one, the state of its network."""
        self.optimizers |= {id(optimizer): optimizer}
        forward, self.forward = self.forward, None
        if forward:
            if forward.parameters not in self.start:
                state = forward.module.state_dict()
                self.start[forward.parameters] = {key: value.clone() for key, value in state.items()}
            forward.optimizer, forward.rate = optimizer, float(optimizer.param_groups[0]["lr"])
            after = gradients(forward.module)
            forward.moved = {key for key, version in after.items() if version != self.before.get(key)}

    def after_cell(self, source, error=None):
        """Record the values of names that are often reused, and whether the cell is empty or failed."""
        for loader_class in {type(self.names.get(f"{name}_loader")) for name in SETS}:
            if "__iter__" in vars(loader_class) and loader_class.__module__ == "__main__":  # a loader of the student's
                self.watch_class(loader_class)
        self.values.append({name: self.names.get(name) for name in ("images", "labels", "mean", "std")})
        self.has_blank |= not re.sub(r"#.*", "", source).strip()
        if error and not isinstance(error, (AssertionError, Undecided)):  # of a check, or of a test
            self.error = f"{type(error).__name__}: {error}"

    def get(self, name):
        """Return the value of a name. Raises Undecided if it has none."""
        value = self.names.get(name)
        if value is None or isinstance(value, MagicMock):
            raise Undecided(f"{name} is missing" if value is None else f"{name} needs a package that is missing here")
        return value

    def forwards_of(self, name):
        """Return the forwards of a network with its current parameters."""
        module = self.get(name)
        own = ids(module.parameters())
        return [each for each in self.forwards if each.module is module and each.parameters == own]

    def passes(self, name):
        """Return the passes of a network over loaders, in order, each a list of forwards."""
        passes = {}
        for each in self.forwards_of(name):
            if each.iteration is not None:
                passes.setdefault((each.iteration, each.with_grad), []).append(each)
        return list(passes.values())

    def training(self, name):
        """Return the forwards of a network that an optimizer's step followed.

        Raises Lost if there were none, and Undecided if there may have been some that could not be seen.
        """
        steps = [each for each in self.forwards_of(name) if each.optimizer]
        if steps:
            return steps
        if self.error:
            raise Undecided(f"no training of {name} was seen; a cell failed with {self.error}")
        own = ids(self.get(name).parameters())
        given = [[p for group in each.param_groups for p in group["params"]] for each in self.optimizers.values()]
        if any(ids(each) <= own for each in given):
            raise Undecided(f"an optimizer changed {name}, but it could not be seen on which images")
        raise Lost(f"{name} was not trained: no optimizer took a step for its parameters")

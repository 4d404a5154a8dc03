"""What a training run needs to resume after an interruption, saved beside its artifacts: once a second at most."""

import hashlib
import inspect
import time
from pathlib import Path

from common.storage.artifacts import is_intact, load_tensors, save_tensors

import torch

# Options that a run may change when it resumes. Whichever is not listed here must be that of the interrupted run.
FREE_OPTIONS = {"out", "device", "deterministic", "epochs", "resume", "backbone", "force"}


class TrainingCheckpoint:
    """The file {name}.resume.pt: weights, Adam's moments and history after the last saved epoch.

    It holds no random state, as the random numbers of an epoch depend on the seed and the epoch's number alone.
    options: the script's, by name, `out` the folder of the file; all but FREE_OPTIONS must agree when a run resumes.
    data: Q1's dict; inputs: what the run depends on beside it, by name: text, or what `definition` takes.
    """

    def __init__(self, name, options, data, **inputs):
        inputs = {name: each if isinstance(each, str) else definition(each) for name, each in inputs.items()}
        self.path = Path(options["out"]) / f"{name}.resume.pt"
        self.resume = options["resume"]
        settings = {f"--{key.replace('_', '-')}": value for key, value in options.items() if key not in FREE_OPTIONS}
        self.settings = settings | {"data or split": data["fingerprint"]} | inputs
        self.epochs = options["epochs"]
        self.last_saved = float("-inf")

    def save(self, model, optimizer, history):
        """Save the state after an epoch, in place of the previous one: at most once a second, and after the last."""
        is_last = len(history["test_loss"]) == self.epochs
        if not is_last and time.monotonic() - self.last_saved < 1:
            return
        weights, moments = model.state_dict(), optimizer.state_dict()["state"]
        state = {"settings": self.settings, "model": weights, "optimizer": moments, "history": history}
        save_tensors(state, self.path)
        self.last_saved = time.monotonic()

    def restore(self, model, optimizer, epochs):
        """Load the saved state into `model` and `optimizer`; return its history, or None to start from the beginning.

        epochs: how many the run is to have in the end. Raises ValueError when the state is damaged, has more
        epochs, or is of a run with other settings, which are named. With --resume=if-same the last two start from
        the beginning instead.
        """
        if not self.resume:
            self.warn_of_interrupted_run(epochs)
            return None
        if not self.path.is_file():
            print(f"{self.path} not found, so nothing to resume: starting from the beginning.")
            return None
        state = self.read()
        different, done = differences(state["settings"], self.settings), len(state["history"]["test_loss"])
        if self.resume == "if-same" and (different or done > epochs):
            print(f"{self.path} belongs to a run with {different or f'{done} epochs'}: starting from the beginning.")
            return None
        if different:
            raise ValueError(
                f"{self.path} belongs to a run with {different}: rerun without --resume to start from the beginning"
            )
        if done > epochs:
            raise ValueError(f"--epochs {epochs}: {self.path} already has {done} epochs")
        try:
            model.load_state_dict(state["model"])
            # The optimizer's own options stay: those saved may be of another device.
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]})
            match_strides(optimizer)
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path} does not fit this network: delete it ({error})") from None
        print(f"Resuming {self.path}: {done} of {epochs} epochs are done.")
        return state["history"]

    def read(self):
        """Return the state in the file. Raises ValueError when it holds none."""
        try:
            state = load_tensors(self.path, made_by="the same command", mmap=False)
        except ValueError as error:
            raise ValueError(f"{error}; delete it to start from the beginning") from None
        if not is_intact(self.path):
            raise ValueError(f"{self.path} is damaged, its checksums differ: delete it to start from the beginning")
        try:
            len(state["history"]["test_loss"]), dict(state["settings"]), state["model"], state["optimizer"]
        except (KeyError, TypeError, ValueError, IndexError):
            reason = "is no state of a training run: delete it to start from the beginning"
            raise ValueError(f"{self.path} {reason}") from None
        return state

    def warn_of_interrupted_run(self, epochs):
        """Print a line when this run is about to overwrite the state of an unfinished one with the same settings."""
        try:
            state = self.read()
            done = len(state["history"]["test_loss"])
        except (FileNotFoundError, ValueError):
            return
        if done < epochs and not differences(state["settings"], self.settings):
            print(f"{self.path} holds {done} epochs of this same run; stop and add --resume to keep them.")


def definition(thing):
    """Return a hash, in hexadecimal, of what defines a network, loss or transform, but for its parameters.

    That is the type, plain attributes and buffers of each part, and the source of those that torch does not define.
    """
    parts = thing.modules() if isinstance(thing, torch.nn.Module) else getattr(thing, "transforms", [thing])
    texts = []
    for part in parts:
        attributes = getattr(part, "__dict__", {})
        plain = {key: value for key, value in attributes.items() if isinstance(value, (int, float, str, tuple, list))}
        buffers = [each.tolist() for each in attributes.get("_buffers", {}).values() if each is not None]
        kind = part if inspect.isfunction(part) else type(part)
        is_own = kind.__module__.partition(".")[0] not in ("torch", "torchvision", "builtins")
        texts.append(f"{kind.__qualname__} {plain} {buffers} {inspect.getsource(kind) if is_own else ''}")
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def differences(before, now):
    """Return the settings in which an interrupted run differs from this one, as a phrase, empty if there are none."""
    return " and ".join(
        f"{name} {before.get(name)}, not {now.get(name)}" if name.startswith("--") else f"different {name}"
        for name in sorted(before | now)
        if before.get(name) != now.get(name)
    )


def match_strides(optimizer):
    """Give each moment the strides of its parameter, which fused optimizers rely on: those saved may differ."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)

"""Training checkpoints: the state from which an interrupted run resumes, saved at most once per second."""

import hashlib
import inspect
import time
from pathlib import Path

from common.storage.artifacts import is_intact, load_tensors, save_tensors

import torch

# Options that may change when a run resumes. All others must match the interrupted run.
FREE_OPTIONS = {"out", "device", "deterministic", "epochs", "resume", "backbone", "force"}


class TrainingCheckpoint:
    """The file {name}.resume.pt: weights, Adam's moments and history after the last saved epoch.

    No random state is saved, because an epoch's random numbers depend only on the seed and the epoch's number.
    options: the script's options by name; `out` is the file's folder. data: Q1's dict. inputs: other things that
    determine the result, by name: strings, or arguments of `definition`.
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
        """Save the state after an epoch, unless one was saved less than a second ago; always save the last epoch."""
        is_last = len(history["test_loss"]) == self.epochs
        if not is_last and time.monotonic() - self.last_saved < 1:
            return
        weights, moments = model.state_dict(), optimizer.state_dict()["state"]
        state = {"settings": self.settings, "model": weights, "optimizer": moments, "history": history}
        save_tensors(state, self.path)
        self.last_saved = time.monotonic()

    def restore(self, model, optimizer, epochs):
        """Load the saved state into `model` and `optimizer`; return its history, or None to start from the beginning.

        Raises ValueError if the state is damaged, has more than `epochs` epochs, or belongs to a run with other
        settings. --resume=if-same starts from the beginning in the last two cases.
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
            advice = "rerun without --resume to start from the beginning, or choose another --out"
            raise ValueError(f"{self.path} belongs to a run with {different}: {advice}")
        if done > epochs:
            raise ValueError(f"--epochs {epochs}: {self.path} already has {done} epochs")
        model.load_state_dict(state["model"])
        # Keep the current options, because the saved ones may belong to another device.
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]})
        match_strides(optimizer)
        print(f"Resuming {self.path}: {done} of {epochs} epochs are done.")
        return state["history"]

    def read(self):
        """Return the saved state. Raises ValueError if the file is damaged or holds something else."""
        try:
            state = load_tensors(self.path, made_by="the same command", mmap=False)
            if not is_intact(self.path):
                raise ValueError(f"{self.path} is damaged, its checksums differ")
            if not isinstance(state, dict) or not {"settings", "model", "optimizer", "history"} <= set(state):
                raise ValueError(f"{self.path} is not the state of a training run")
        except ValueError as error:
            raise ValueError(f"{error}: delete it to start from the beginning") from None
        return state

    def warn_of_interrupted_run(self, epochs):
        """Print a line if this run will overwrite the state of an unfinished run with the same settings."""
        try:
            state = self.read()
        except (FileNotFoundError, ValueError):
            return
        done = len(state["history"]["test_loss"])
        if done < epochs and not differences(state["settings"], self.settings):
            print(f"{self.path} holds {done} epochs of the same run; stop and add --resume to keep them.")


def definition(thing):
    """Return a hexadecimal hash of the definition of a network, loss or transform, without its parameters.

    It covers the type, plain attributes and buffers of each part, and the source code of parts defined outside torch.
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
    """Return a phrase with the settings that differ between an interrupted run and this one; empty if they agree."""
    return " and ".join(
        f"{name} {before.get(name)}, not {now.get(name)}" if name.startswith("--") else f"different {name}"
        for name in sorted(before | now)
        if before.get(name) != now.get(name)
    )


def match_strides(optimizer):
    """Give each moment the strides of its parameter, as fused optimizers require; saved strides may differ."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)

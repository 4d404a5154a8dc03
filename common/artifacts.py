"""The files the scripts hand to one another: each written whole or not at all."""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def replacing(path):
    """Give a temporary name beside `path`; on success the file there takes its place in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(tensors, path):
    """Write a state_dict, or a dict of tensors and plain values, with torch.save."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(tensors, file)  # given a path, it would write the temporary name into the file


def save_figure(figure, path):
    """Write a matplotlib figure as PNG, 150 dots an inch."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def save_text(text, path):
    """Write text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(record, path):
    """Write a record; a figure that does not exist, NaN, becomes null. The last file of every question."""
    lines = [f"{json.dumps(key)}: {json.dumps(without_nan(value), allow_nan=False)}" for key, value in record.items()]
    save_text("{\n  " + ",\n  ".join(lines) + "\n}\n", path)


def without_nan(value):
    """Return nested dicts and lists with None in place of every NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_question(out, name, model, figure, record):
    """Write what a training question ends with: {name}.pt, exactly the state_dict, {name}.png and {name}.json."""
    weights = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    save_tensors(weights, Path(out) / f"{name}.pt")
    save_figure(figure, Path(out) / f"{name}.png")
    save_json(record, Path(out) / f"{name}.json")


def load_json(path):
    """Return the record in a JSON file. Raises FileNotFoundError or ValueError, naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}): make it anew") from None


def load_tensors(path, made_by):
    """Return what torch.save wrote at `path`, mapped from disk, on the CPU; nothing in it is executed.

    Raises FileNotFoundError, saying that `made_by` makes it, or ValueError when it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there: run {made_by} first, or name the folder it is in with --out")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen types for a file it cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a file of tensors that torch can read safely ({reason})") from None


def load_data(out):
    """Return Q1's dict of tensors, names and source from the artifacts folder `out`."""
    return load_tensors(Path(out) / "q1_data.pt", made_by="q1_data.py")


def load_weights(model, path, made_by):
    """Load a state_dict into `model`. Raises ValueError when its names or shapes are not the model's."""
    try:
        model.load_state_dict(load_tensors(path, made_by))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the weights of this network: run {made_by} again ({error})") from None

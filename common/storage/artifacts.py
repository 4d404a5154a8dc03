"""The files that the scripts exchange: tensors, figures and JSON records."""

import argparse
import json
import math
import pathlib
import re
import warnings
import zipfile
from pathlib import Path

from common.storage.atomic import atomic_write

import numpy as np
import torch

# Types besides tensors that torch.load may create: plain values that are often saved with weights.
PLAIN = [argparse.Namespace, np.dtype]
PLAIN += {type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]}
scalar = np.float64(0).__reduce__()[0]  # recreates NumPy scalars; files of NumPy 1 and 2 have different names for it
PLAIN += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
for module in ("pathlib", "pathlib._local"):  # the latter in files of Python 3.13
    PLAIN += [(pathlib.PurePosixPath, f"{module}.PosixPath"), (pathlib.PureWindowsPath, f"{module}.WindowsPath")]


def write_tensors(tensors, path):
    with open(path, "wb") as file:
        torch.save(tensors, file)  # given a path, it would store the path's name in the file


def write_figure(figure, path):
    figure.savefig(path, format="png", dpi=150, pil_kwargs={"compress_level": 4})  # in half the default's time


def write_json(record, path):
    lines = [f"{json.dumps(key)}: {json.dumps(without_nan(value), allow_nan=False)}" for key, value in record.items()]
    path.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n", encoding="utf-8")


def without_nan(value):
    """Return nested dicts and lists with every NaN replaced by None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_tensors(tensors, path):
    """Write a state_dict, or a dict of tensors and plain values, with torch.save."""
    with atomic_write(path) as [temporary]:
        write_tensors(tensors, temporary)


def save_figure(figure, path):
    """Write a matplotlib figure as PNG with 150 dots per inch."""
    with atomic_write(path) as [temporary]:
        write_figure(figure, temporary)


def save_text(text, path):
    """Write text as UTF-8."""
    with atomic_write(path) as [temporary]:
        temporary.write_text(text, encoding="utf-8")


def save_json(record, path):
    """Write a record as JSON; NaN becomes null."""
    with atomic_write(path) as [temporary]:
        write_json(record, temporary)


def save_question(out, name, tensors, figure, record):
    """Write a question's files together: {name}.pt, unless `tensors` is None, {name}.png and, last, {name}.json."""
    contents = {"pt": (write_tensors, tensors), "png": (write_figure, figure), "json": (write_json, record)}
    if tensors is None:
        del contents["pt"]
    record["files"] = [f"{name}.{kind}" for kind in contents]
    with atomic_write(*(Path(out) / file for file in record["files"])) as temporaries:
        for (write, content), temporary in zip(contents.values(), temporaries, strict=True):
            write(content, temporary)


def load_json(path):
    """Return the record in a JSON file. Raises FileNotFoundError or ValueError, naming the file."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not valid JSON ({error}): recreate it") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not the record of a question: recreate it")
    return record


def load_tensors(path, made_by, mmap=True, remedy="point --out at its folder"):
    """Return the content of a torch.save file on the CPU, without executing anything in it.

    mmap: map the tensors from disk instead of reading them. Raises FileNotFoundError, with the script `made_by` that
    writes the file and a `remedy`, or ValueError for any other kind of file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run {made_by} first, or {remedy}")
    is_zip = False  # files of torch 1.5 and older are not, and cannot be mapped
    try:
        is_zip = zipfile.is_zipfile(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # torch raises half a dozen types for unreadable files
        code = re.search(r"(?:GLOBAL|function) (\S+)", str(error))
        if code:
            reason = f"it contains {code[1]}, which is not loaded because it can run code: save a state_dict"
        elif is_zip:
            # Without torch's advice to run the file's code.
            reason = re.split(r"\s+(?:This file can|In PyTorch)|\n", str(error))[0]
        else:
            reason = "it is another kind of file, or truncated"
        raise ValueError(f"{path} is not a file of tensors that torch can read safely: {reason}") from None


def is_intact(path):
    """Return whether the CRC-32 checksums in a torch.save file, which torch ignores, match its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        return False

"""The files that the scripts pass on: tensors, figures and JSON records."""

import argparse
import json
import math
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path

from common.storage.atomic import atomic_write, is_writer

import numpy as np
import torch

multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # numpy 2 and 1
# What torch.load may make beside tensors, by the names in files: plain values that training loops keep with weights.
PLAIN = [np.dtype, np.ndarray, *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OVMm"}]
PLAIN += [(getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
          for name in ("scalar", "_reconstruct") for core in ("core", "_core")]  # fmt: skip
PLAIN += [argparse.Namespace]
PLAIN += [(getattr(pathlib, f"Pure{name}"), f"{module}.{name}")
          for name in ("PosixPath", "WindowsPath") for module in ("pathlib", "pathlib._local")]  # fmt: skip


def write_tensors(tensors, path):
    with open(path, "wb") as file:
        torch.save(tensors, file)  # given a path, it would store the path's name in the file


def write_figure(figure, path):
    figure.savefig(path, format="png", dpi=150, pil_kwargs={"compress_level": 4})  # in half of the default's time


def write_json(record, path):
    lines = [f"{json.dumps(key)}: {json.dumps(without_nan(value), allow_nan=False)}" for key, value in record.items()]
    path.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n", encoding="utf-8")


def without_nan(value):
    """Return nested dicts and lists with None in place of every NaN."""
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
    """Write a matplotlib figure as PNG, 150 dots per inch."""
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
    """Write the files of a question: {name}.pt, unless `tensors` is None, {name}.png and, last, {name}.json.

    Under torchrun only rank 0 does this.
    """
    if not is_writer():
        return
    contents = {"pt": (write_tensors, tensors), "png": (write_figure, figure), "json": (write_json, record)}
    if tensors is None:
        del contents["pt"]
    record["files"] = [f"{name}.{kind}" for kind in contents]
    with atomic_write(*(Path(out) / f"{name}.{kind}" for kind in contents)) as temporaries:
        for (write, content), temporary in zip(contents.values(), temporaries, strict=True):
            write(content, temporary)


def load_json(path):
    """Return the record in a JSON file. Raises FileNotFoundError or ValueError, naming the file."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): recreate it") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not the record of a question: recreate it")
    return record


def load_tensors(path, made_by, mmap=True):
    """Return what torch.save wrote at `path`, on the CPU, with `mmap` mapped from disk; nothing in it is executed.

    Raises FileNotFoundError, naming the script `made_by` that writes it, or ValueError for any other kind of file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run {made_by} first, or point --out at its folder")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN):
            warnings.simplefilter("ignore")
            mmap = mmap and is_zip(path)  # the form before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises half a dozen types for files that it cannot read
        raise ValueError(
            f"{path} is not a file of tensors that torch can read safely: {diagnose(path, error)}"
        ) from None


def is_zip(path):
    """Return whether a file is a complete zip archive, which is what torch.save writes."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, ValueError, OverflowError):
        return False


def is_intact(path):
    """Return whether a file of torch.save is undamaged, by the CRC-32s in it, which torch ignores."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
        return False


def diagnose(path, error):
    """Return in a few words what kind of file it is in which torch.load found no tensors."""
    with open(path, "rb") as file:
        start = file.read(512)
    code = re.search(r"(?:GLOBAL|function) (\S+)", str(error))
    if not start:
        return "it is empty"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: save the model's state_dict"
    if code:
        return f"it is a pickle that would execute code ({code[1]}) and was not loaded: save a state_dict"
    if isinstance(error, pickle.UnpicklingError) and is_intact(path):
        return "it holds objects other than tensors and plain values, which were not loaded: save a state_dict"
    if is_zip(path):
        return "it is a zip archive, but not one of torch.save, or a damaged one"
    if start.startswith(b"PK\x03\x04"):
        return "it is truncated: copy or recreate it"
    if start.startswith(b"\x80"):
        return "it is a pickle, but not of torch.save, or a damaged one"
    if start.isascii():
        return "it is a text file"
    return "it is not a file of torch.save, or a damaged one"

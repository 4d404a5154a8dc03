"""Damaged files: none may end in a traceback, a crash, a hang or too much memory.

Small HDF5 files and checkpoints are damaged at random, and read as q1_data.py and q5_transfer.py's --backbone read
them. `FUZZ=10000 python -m pytest tests/test_fuzz.py` tries as many of each kind.
"""

import contextlib
import io
import os
import shutil
import sys

import q1_data
from common import cli
from common.storage import artifacts
from common.storage.checkpoint import load_backbone
from q3_cnn import make_backbone, make_cnn

import h5py
import numpy as np
import pytest
import torch
from forked import CONTEXT, peak_memory

MEMORY, HANG = 1_500_000_000, 120  # what a file may cost: bytes; seconds after which a process hangs, not just waits
COUNT = 60  # images in a file


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder of whole files to start from: HDF5 in several layouts, and checkpoints in several forms."""
    folder, rng = tmp_path_factory.mktemp("fuzz"), np.random.default_rng(0)
    # Pictures of one colour each compress to nothing, so that most bytes of a file are its structure.
    images = np.broadcast_to(rng.integers(0, 256, (COUNT, 1, 1, 3), dtype=np.uint8), (COUNT, 69, 69, 3))
    labels = np.arange(COUNT, dtype=np.uint8) % 10
    layouts = {
        "gzip": {"compression": "gzip", "chunks": (7, 69, 69, 3)},
        "many-chunks": {"compression": "gzip", "chunks": (1, 69, 69, 3)},
        "checked": {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (60, 69, 69, 3)},
        "lzf": {"compression": "lzf", "chunks": (10, 69, 69, 3)},
        "plain": {},
    }
    for name, options in layouts.items():
        for libver in ("earliest", "latest"):
            with h5py.File(folder / f"{name}-{libver}.h5", "w", libver=libver) as file:
                file.attrs["synthetic"] = True
                file.create_dataset("images", data=images, **options)
                packed = {"compression": "gzip"} if options else {}
                file.create_dataset("ans", data=labels.astype(np.int64 if libver == "latest" else np.uint8), **packed)
    cnn = make_cnn()
    torch.save(cnn.state_dict(), folder / "cnn.pt")
    torch.save({"epoch": 3, "state_dict": cnn[0].half().state_dict()}, folder / "half.pt")
    torch.save(cnn[0].state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return folder


def damaged(content, rng):
    """Return `content` with one to eight random damages, three of four of them near its ends, where structure is."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if len(content) < 100:
            break
        n = len(content)
        near = min(n, 4096)
        where = int(rng.choice([rng.integers(near), rng.integers(near), n - 1 - rng.integers(near), rng.integers(n)]))
        kind = rng.integers(6)
        if kind <= 1:
            content[where] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[where] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
        elif kind == 3:  # a length, an offset or a dimension
            value = int(rng.choice([0, 1, 2**31, 2**40, 2**63 - 1, rng.integers(2**63)]))
            content[where : where + 8] = value.to_bytes(8, "little")
        elif kind == 4:
            length = int(rng.integers(1, 64))
            content[where : where + length] = content[:length] if rng.integers(2) else b""
        elif rng.integers(4) == 0:
            del content[max(where, 16) :]
    return bytes(content)


def read_all(paths, report):
    """In a process of its own: read files as the scripts do; report what came of each."""
    # The picture takes a second and has nothing to do with what is in the file.
    q1_data.plots.class_gallery = lambda *args: None
    artifacts.write_figure = lambda figure, path: path.write_bytes(b"")
    for path in paths:
        report.send(read(path))


def read(path):
    """Read a file as the scripts do; return 'fine', 'refused', or a finding in words."""

    def load():
        print(load_backbone(make_backbone(), path, {"fingerprint": ""}))

    errors, status, out = io.StringIO(), 0, path.with_suffix(".out")
    sys.argv = ["q1_data.py", "--data", str(path), "--main-train", "30", "--transfer-train", "6", "--out", str(out)]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.run(q1_data.main if path.suffix == ".h5" else load)
        except SystemExit as error:
            status = error.code
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    shutil.rmtree(out, ignore_errors=True)
    if peak_memory() > MEMORY:
        return f"memory {peak_memory() / 1e9:.2f} GB: {errors.getvalue()}"
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    is_refused = status == 2 and len(lines) == 1 and path.name in lines[0]
    return "fine" if status == 0 else "refused" if is_refused else f"{status}: {errors.getvalue()}"


def verdicts(paths):
    """Return what came of reading each file, by path, up to one at which the process crashed or hung."""
    receiving, sending = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=read_all, args=(paths, sending))
    process.start()
    sending.close()
    found = {}
    for path in paths:
        try:
            found[path] = receiving.recv() if receiving.poll(HANG) else "a hang"
        except EOFError:
            found[path] = "a crash"
        if found[path] in ("a hang", "a crash"):
            break
    process.kill()
    process.join()
    return found


def test_the_whole_files_are_taken(seeds):
    paths = sorted(seeds.glob("*.*"))
    assert verdicts(paths) == dict.fromkeys(paths, "fine")


@pytest.mark.parametrize(("kind", "count"), [("h5", 120), ("pt", 80)])
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, seeds, tmp_path):
    paths, originals = [], [(path.name, path.read_bytes()) for path in sorted(seeds.glob(f"*.{kind}"))]
    for number in range(int(os.environ.get("FUZZ", count))):
        rng = np.random.default_rng([467, number])
        name, content = originals[rng.integers(len(originals))]
        paths.append(tmp_path / f"{number}-{name}")
        paths[-1].write_bytes(damaged(content, rng))
    found = verdicts(paths)
    assert {path.name: words for path, words in found.items() if words not in ("fine", "refused")} == {}
    assert list(found.values()).count("refused") > len(paths) / 3  # the damages do damage

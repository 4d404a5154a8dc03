"""Damaged files: none may end in a traceback, a crash, a hang or too much memory.

Small HDF5 files and checkpoints are damaged at random, and read as q1_data.py and q5_transfer.py's --backbone read
them. `FUZZ=10000 python -m pytest tests/test_fuzz.py` tries as many of each kind.
"""

import os

from common.galaxies.hdf5 import catalogue_ids, check_galaxy10, open_hdf5, read_split, reading
from common.storage.checkpoint import load_backbone
from common.storage.streams import one_line
from q3_cnn import make_backbone, make_cnn

import h5py
import numpy as np
import pytest
import torch
from conftest import write_galaxy10
from forked import CONTEXT, peak_memory

MEMORY, HANG = 1_500_000_000, 120  # bytes, and seconds after which a process hangs, not just waits


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder of whole files to start from: HDF5 in several layouts, and checkpoints in several forms."""
    folder = tmp_path_factory.mktemp("fuzz")
    layouts = {"plain": {}, "gzip": {"compression": "gzip", "chunks": (7, 69, 69, 3)}}
    layouts["checked"] = {"compression": "lzf", "shuffle": True, "fletcher32": True, "chunks": (60, 69, 69, 3)}
    for name, options in layouts.items():
        for libver in ("earliest", "latest"):
            path = write_galaxy10(folder / f"{name}-{libver}.h5", images=None, id=np.arange(60))
            with h5py.File(path, "a", libver=libver) as file:
                # Images of one colour compress to nothing, so that most bytes of a file are its structure.
                file.create_dataset("images", data=np.full((60, 69, 69, 3), 77, np.uint8), **options)
    cnn = make_cnn()
    torch.save({"epoch": 3, "state_dict": cnn.half().state_dict()}, folder / "half.pt")
    torch.save(cnn[0].state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return folder


def damaged(content, rng):
    """Return `content` with one to eight random damages, three of four of them near its ends, where structure is."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        last, near = len(content) - 1, min(len(content), 4096)
        where = int(rng.choice([rng.integers(near), rng.integers(near), last - rng.integers(near), rng.integers(last)]))
        kind = rng.integers(6)
        if kind <= 1:
            content[where] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[where] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 3:  # a length, an offset or a dimension
            content[where : where + 8] = int(rng.choice([0, 1, 2**31, 2**40, 2**63 - 1])).to_bytes(8, "little")
        elif kind == 4:
            content[where : where + int(rng.integers(1, 64))] = b""
        elif rng.integers(4) == 0:
            del content[max(where, 100) :]
    return bytes(content)


def read(path):
    """Read a file as the scripts do; return 'fine', 'refused', or a finding in words."""
    try:
        if path.suffix == ".pt":
            load_backbone(make_backbone(), path, {"fingerprint": ""})
        else:
            check_galaxy10(path)
            with reading(path), open_hdf5(path) as file:
                count = len(np.array(file["images"]))
                catalogue_ids(path, file, count)
                read_split(path, file, count)
    except (OSError, ValueError) as error:
        return "refused" if path.name in one_line(error) else f"no file is named: {error!r}"
    except Exception as error:
        return repr(error)
    return "fine" if peak_memory() < MEMORY else f"memory {peak_memory() / 1e9:.2f} GB"


def read_all(paths, log):
    """In a new process: read files; write what came of each into a file, a line each."""
    with open(log, "w", buffering=1) as file:
        for path in paths:
            file.write(f"{read(path)}\n")


@pytest.mark.parametrize(("kind", "count"), [("h5", 120), ("pt", 80)])
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, seeds, tmp_path):
    paths = sorted(seeds.glob(f"*.{kind}"))
    originals, whole = [path.read_bytes() for path in paths], len(paths)
    for number in range(int(os.environ.get("FUZZ", count))):
        rng = np.random.default_rng([467, number])
        paths.append(tmp_path / f"{number}.{kind}")
        paths[-1].write_bytes(damaged(originals[number % whole], rng))
    process = CONTEXT.Process(target=read_all, args=(paths, tmp_path / "log"))
    process.start()
    process.join(HANG + len(paths))
    process.kill()
    found = (tmp_path / "log").read_text().splitlines()
    assert len(found) == len(paths), f"a crash or a hang at {paths[len(found)]}"
    assert found[:whole] == ["fine"] * whole
    findings = {path.name: words for path, words in zip(paths, found, strict=True) if words not in ("fine", "refused")}
    assert findings == {}
    assert found.count("refused") > len(paths) / 3  # the damages do damage

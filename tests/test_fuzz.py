"""Files with random damage: none may end in a traceback, a crash, a hang or too much memory.

They are read as q1_data.py and q5_transfer.py --backbone read them. `FUZZ=10000 python -m pytest tests/test_fuzz.py`
tries as many of each kind.
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


def whole_files(folder, kind):
    """Write whole files to start from: HDF5 in two layouts, or checkpoints in two forms; return their paths."""
    if kind == "pt":
        torch.save({"epoch": 3, "state_dict": make_cnn().half().state_dict()}, folder / "half.pt")
        torch.save(make_backbone().state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    else:
        layouts = {"earliest": {}, "latest": {"compression": "gzip", "fletcher32": True, "chunks": (7, 69, 69, 3)}}
        for version, options in layouts.items():
            # Images of one colour compress to nothing, so that most bytes of the file are its structure.
            path = write_galaxy10(folder / f"{version}.h5", images=None, id=np.arange(60))
            with h5py.File(path, "a", libver=version) as file:
                file.create_dataset("images", data=np.full((60, 69, 69, 3), 77, np.uint8), **options)
    return sorted(folder.glob(f"*.{kind}"))


def damaged(content, rng):
    """Return `content` with one to eight runs of bytes replaced, most of them near its ends, where structure is."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        near = min(len(content), int(rng.choice([4096, 4096, 4096, len(content)])))
        where = int(rng.choice([rng.integers(near), len(content) - 1 - rng.integers(near)]))
        removed = int(rng.choice([1, 1, 4, 8, 64]))
        content[where : where + removed] = rng.bytes(rng.choice([removed, removed, removed - 1]))
    if rng.integers(10) == 0:
        del content[rng.integers(len(content)) :]
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
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, tmp_path):
    paths = whole_files(tmp_path, kind)
    originals, whole = [path.read_bytes() for path in paths], len(paths)
    for number in range(int(os.environ.get("FUZZ", count))):
        paths.append(tmp_path / f"{number}.{kind}")
        paths[-1].write_bytes(damaged(originals[number % whole], np.random.default_rng([467, number])))
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

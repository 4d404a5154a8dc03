"""A byte-flipping fuzzer: scripts on damaged files, in processes of their own, which must end well.

`python tests/fuzz.py --count 20000` damages small HDF5 files and checkpoints at random and hands each to q1_data.py
or to the loading of q5_transfer.py's backbone. A traceback, a crash, a hang or too much memory is a finding.
"""

import argparse
import collections
import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import q1_data
from common import cli
from common.storage import artifacts
from common.storage.checkpoint import load_backbone
from q3_cnn import make_backbone, make_cnn

from forked import CONTEXT, peak_memory

MEMORY, HANG = 1_500_000_000, 120  # what a file may cost: bytes; seconds after which a process hangs, not just waits
COUNT = 60  # images in a file
TOGETHER = 25  # files that a process examines


def write_seeds(folder):
    """Write whole files to start from into `folder`: HDF5 in several layouts, and checkpoints in several forms."""
    rng = np.random.default_rng(0)
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


def examine(paths, report):
    """In a process of its own: read damaged files as the scripts do; report status, errors and peak memory of each."""
    # The picture takes a second and has nothing to do with what is in the file.
    q1_data.plots.class_gallery = lambda *args: None
    artifacts.write_figure = lambda figure, path: path.write_bytes(b"")
    for path in paths:
        report.send((*read(path), peak_memory()))


def read(path):
    """Read a damaged file as the scripts do; return the exit status and what stands on stderr."""

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
            status = 1
            print(f"Traceback: {type(error).__name__}: {error}", file=errors)
    return status, errors.getvalue().strip()


def verdicts(paths, examine=examine):
    """Yield what examining each path came to: 'fine', 'refused', or a finding in words.

    One process examines all; after a crash or a hang another goes on with the files that are left.
    """
    left = list(paths)
    while left:
        receiving, sending = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=examine, args=(left, sending))
        process.start()
        sending.close()
        words = None
        while left and words not in ("crash", "hang"):
            path = left.pop(0)
            try:
                words = in_words(path, *receiving.recv()) if receiving.poll(HANG) else "hang"
            except EOFError:
                words = "crash"
            yield words
        process.kill()
        process.join()


def in_words(path, status, text, memory):
    """Return 'fine', 'refused', or a finding in words."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if memory > MEMORY:
        return f"memory {memory / 1e9:.2f} GB: {text}"
    if status == 0:
        return "fine"
    if status == 2 and len(lines) == 1 and path.name in lines[0]:
        return "refused"
    return f"{status}: {text}"


def fuzz(count, seed, folder, kinds=("h5", "pt")):
    """Damage and examine `count` files; return the number of each verdict, and findings as (file, words)."""
    seeds = sorted(path for kind in kinds for path in folder.glob(f"*.{kind}"))
    contents = [path.read_bytes() for path in seeds]
    counted, findings = collections.Counter(), []
    work = folder / "work"
    work.mkdir(exist_ok=True)
    for start in range(0, count, TOGETHER):
        paths = []
        for number in range(start, min(start + TOGETHER, count)):
            rng = np.random.default_rng([seed, number])
            which = int(rng.integers(len(seeds)))
            paths.append(work / f"{seed}-{number}-{seeds[which].name}")
            paths[-1].write_bytes(damaged(contents[which], rng))
        for path, words in zip(paths, verdicts(paths), strict=True):
            if words in ("fine", "refused"):
                counted[words] += 1
                path.unlink()
                shutil.rmtree(path.with_suffix(".out"), ignore_errors=True)
            else:
                counted["finding"] += 1
                findings.append((path, words))
    return counted, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=("h5", "pt"))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    write_seeds(folder)
    counted, findings = fuzz(args.count, args.seed, folder, args.kinds)
    print(*(f"{path}: {words}" for path, words in findings), dict(counted), sep="\n")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()

"""How fast predict.py reads and classifies JPEGs, against the loop one would write, and how much memory it takes.

The loop: PIL, torchvision's transforms, one picture at a time, the same nine crops. Writes, under --out/benchmarks,
SYNTHETIC galaxies as JPEGs, an untrained network and pictures.json. Prints a table.
"""

import shutil
from functools import partial
from pathlib import Path

from benchmarks.measure import alternate, run_measured, seconds
from common import cli
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.synthetic import synthetic_galaxy10
from common.hardware.device import choose_device
from common.storage.artifacts import save_json, save_tensors
from common.storage.checkpoint import weights_hash
from q3_cnn import make_cnn
from use.ensemble import grid
from use.pieces import Classifier, predictions
from use.trained import load_network

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

EXAMPLES = ("python -m benchmarks.pictures", "python -m benchmarks.pictures --count 500 --many 5000 --out small")
SIDE, SIZE = 424, 69  # pixels: of the JPEGs, and of what the network is given


def write_jpegs(folder, count, seed):
    """Write `count` JPEGs of SIDE x SIDE pixels, galaxies with noise, into an empty folder; return their paths."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(seed), []
    _, blocks = synthetic_galaxy10(count, seed)
    for block in blocks:
        for pixels in block:
            large = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
            large += rng.integers(-6, 7, large.shape, dtype=np.int16)
            paths.append(folder / f"{len(paths):05d}.jpg")
            Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def untrained(folder, seed):
    """Write a network with random weights into `folder`; return the Classifier of it."""
    torch.manual_seed(seed)
    network = make_cnn().eval()
    record = {"source": "synthetic", "class_names": CLASS_NAMES[:8], "mean": [30.0] * 3, "std": [35.0] * 3}
    save_tensors(network.state_dict(), folder / "untrained.pt")
    save_json(record | {"image_size": SIZE}, folder / "untrained.json")
    options = {"crops": 9, "symmetries": False, "device": "cpu", "field": 1.0, "thumbnails": False}
    return Classifier(str(folder / "untrained.pt"), weights_hash(network.state_dict()), **options)


def usual_loop(paths, network, record):
    """Return the probabilities of each picture, one after the other."""
    to_tensor = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()])
    normalize = transforms.Normalize(record["mean"], record["std"])
    found = []
    for path in paths:
        image = to_tensor(Image.open(path).convert("RGB")).float()
        crops = [normalize(functional.crop(image, top, left, 48, 48)) for top, left in grid(SIZE, 9)]
        with torch.no_grad():
            found.append(network(torch.stack(crops)).softmax(1).mean(0))
    return torch.stack(found)


def run_many(folder, jpeg, count, *options):
    """Run predict.py --csv on `count` pictures, a JPEG and many small ones, with the network of `untrained`.

    Returns how long it took, in s, and its peak memory, in GB. Writes answers.csv into `folder`.
    """
    listed, small = folder / "pictures.txt", folder / "small.png"
    Image.open(jpeg).resize((SIZE, SIZE)).save(small)
    listed.write_text(f"{jpeg}\n" + f"{small}\n" * (count - 1))
    code = "import sys, predict; sys.stdin = open(sys.argv.pop(1)); predict.main()"
    files = ("--model", folder / "untrained.pt", "--csv", folder / "answers.csv")
    return run_measured("-c", code, listed, "-", *files, *options)


def main():
    args = get_args()
    choose_device("cpu")
    out = Path(args.out).resolve() / "benchmarks"
    paths = write_jpegs(out / "pictures", args.count, args.seed)
    classifier = untrained(out, args.seed)
    network, record, _ = load_network(classifier.model)
    threads = torch.get_num_threads()

    def predicted(some):
        return [found for batch in predictions(list(map(str, some)), classifier) for found in batch.records]

    timed = {"seconds": predicted, "baseline_seconds": lambda some: usual_loop(some, network, record)}
    for function in timed.values():
        function(paths[:100])  # to warm up
    cpu = torch.device("cpu")
    ways = {name: partial(seconds, partial(function, paths), cpu) for name, function in timed.items()}
    timing = alternate(ways, args.rounds)
    ours = [found["probabilities"] for found in predicted(paths[:200])]
    difference = (torch.tensor(ours) - usual_loop(paths[:200], network, record)).abs().mean().item()

    memory = {count: run_many(out, paths[0], count)[1] for count in (args.count, args.many)}
    save_json({"pictures": args.count, **timing, "peak_memory_gb": memory, "threads": threads}, out / "pictures.json")
    print(
        f"{args.count:,} JPEGs of {SIDE} pixels, nine crops each, {threads} threads: "
        f"loop {timing['baseline_seconds']:.1f} s, predict.py {timing['seconds']:.1f} s, {timing['ratio']:.1f}x; "
        f"probabilities differ by {difference:.1e} on average\n"
        "peak memory of predict.py: "
        + ", ".join(f"{gigabytes:.2f} GB for {count:,} pictures" for count, gigabytes in memory.items())
    )


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--count", type=cli.positive_int, default=5000, metavar="N", help="JPEGs that are timed")
    parser.add_argument("--many", type=cli.positive_int, default=100000, metavar="N", help="pictures for the memory")
    parser.add_argument("--rounds", type=cli.positive_int, default=1, metavar="N", help="times that both are timed")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)

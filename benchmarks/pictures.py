"""How fast predict.py reads and classifies JPEGs, against the loop one would write, and how much memory it takes.

The loop: PIL, torchvision's transforms, one picture at a time, the same nine crops. Writes, under --out/benchmarks,
SYNTHETIC galaxies as JPEGs, an untrained network and pictures.json. Prints a table.
"""

import shutil
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.bench import ROOT, alternate, peak_memory
from common import cli
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.pictures import read_pictures
from common.galaxies.synthetic import synthetic_galaxy10
from common.hardware.device import choose_device
from common.storage.artifacts import save_json, save_tensors
from predict import answers
from q3_cnn import make_cnn
from use.answer import Answerer, grid

EXAMPLES = ("python -m benchmarks.pictures", "python -m benchmarks.pictures --count 500 --many 5000 --out small")
SIDE, SIZE = 424, 69  # pixels: of the JPEGs, and of what the network is given


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--count", type=cli.positive_int, default=5000, metavar="N", help="JPEGs that are timed")
    parser.add_argument("--many", type=cli.positive_int, default=100000, metavar="N", help="pictures for the memory")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, metavar="N", help="times that both are timed")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


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


def main():
    args = get_args()
    choose_device("cpu")
    out = Path(args.out).resolve() / "benchmarks"
    paths = write_jpegs(out / "pictures", args.count, args.seed)
    torch.manual_seed(args.seed)
    network = make_cnn().eval()
    record = {"source": "synthetic", "class_names": CLASS_NAMES[:8], "mean": [30.0] * 3, "std": [35.0] * 3}
    record["image_size"] = SIZE
    save_tensors(network.state_dict(), out / "untrained.pt")
    save_json(record, out / "untrained.json")

    answer = Answerer(network, record["mean"], record["std"], SIZE)
    threads = torch.get_num_threads()
    timing = alternate(
        lambda: list(answers(read_pictures(paths, SIZE, threads=threads), answer, record)),
        lambda: usual_loop(paths, network, record),
        args.rounds,
        torch.device("cpu"),
    )
    ours = [found["probabilities"] for found, _ in answers(read_pictures(paths[:200], SIZE), answer, record)]
    difference = statistics.fmean((torch.tensor(ours) - usual_loop(paths[:200], network, record)).abs().flatten().tolist())

    many = out / "many.h5"
    memory = {}
    for count in (args.count, args.many):
        listed = out / "pictures.txt"
        listed.write_text("".join(f"{paths[i % len(paths)]}\n" for i in range(count)))
        command = f"import sys; sys.stdin = open({str(listed)!r}); sys.argv = {['predict.py', '-', '--model', str(out / 'untrained.pt'), '--csv', str(out / 'answers.csv')]!r}; import predict; predict.main()"
        memory[count] = peak_memory("-c", command)
    save_json({"pictures": args.count, **timing, "peak_memory_gb": memory, "threads": threads}, out / "pictures.json")
    print(
        f"{args.count:,} JPEGs of {SIDE} pixels, nine crops each, {threads} threads: loop {timing['baseline_seconds']:.1f} s, "
        f"predict.py {timing['seconds']:.1f} s, {timing['ratio']:.1f}x; probabilities differ by {difference:.1e} on average"
    )


if __name__ == "__main__":
    cli.run(main)

"""What each piece of code for speed on the CPU is worth: an epoch with it, and with plain code in its place, in turn.

On SYNTHETIC images. Prints a table: how much longer an epoch takes without the piece, the median of the rounds.
"""

import ctypes
import statistics
from contextlib import contextmanager
from unittest import mock

from benchmarks.epochs import our_epoch
from benchmarks.measure import machine, seconds
from common import cli
from common.data import Normalize, RandomCrop, make_loaders
from common.galaxies.synthetic import synthetic_galaxy10
from common.hardware import device, layers
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import torch
from torchvision import transforms

EXAMPLES = ("python -m benchmarks.pieces", "python -m benchmarks.pieces --count 3000 --rounds 2")
CPU = torch.device("cpu")


def crop_by_indexing(self, images, indices, top, left):
    """RandomCrop.crop_batch by advanced indexing of rows and columns."""
    window = torch.arange(self.size)
    rows, columns = top[:, None, None] + window[:, None], left[:, None, None] + window
    crops = images.permute(0, 2, 3, 1)[torch.as_tensor(indices)[:, None, None], rows, columns]
    return crops.float().permute(0, 3, 1, 2)


def normalize_as_torchvision(self, crops):
    """Normalise crops with torchvision, of the same mean and std."""
    std = 1 / self.scale
    return transforms.functional.normalize(crops, (-self.shift * std).tolist(), std.tolist())


@contextmanager
def contiguous():
    """Keep crops and weights in torch's default memory format: the crops once they are normalised."""
    normalize = Normalize.forward

    def forward(self, crops):
        return normalize(self, crops).contiguous()

    with (
        mock.patch.object(Normalize, "forward", forward),
        mock.patch.object(layers, "memory_format", return_value=torch.contiguous_format),
    ):
        yield


@contextmanager
def malloc_as_usual():
    """Set glibc's thresholds to their defaults, and back."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-1, 128 * 1024), mallopt(-3, 128 * 1024)
    yield
    device.keep_freed_memory()


# The contexts in which plain code stands in the place of a piece.
PIECES = {
    "gather by runs of bytes": lambda: mock.patch.object(RandomCrop, "crop_batch", crop_by_indexing),
    "Normalize": lambda: mock.patch.object(Normalize, "forward", normalize_as_torchvision),
    "fused Adam": lambda: mock.patch.object(device, "adam_options", return_value={}),
    "pooling before ReLU": lambda: mock.patch.object(layers, "rewrite_layers", lambda layer: layer),
    "channels_last": contiguous,
}
if hasattr(ctypes.CDLL(None), "mallopt"):
    PIECES["malloc's thresholds"] = malloc_as_usual


def make_epoch(make_network, images):
    """Return a function that trains and evaluates for an epoch."""
    transform = transforms.Compose([RandomCrop(48), Normalize(torch.full((3,), 40.0), torch.full((3,), 38.0))])
    task = make_loaders(images, "main", transform)
    torch.manual_seed(0)
    return our_epoch(make_network(), task, CPU)


def main():
    args = get_args()
    device.choose_device("cpu")
    labels, blocks = synthetic_galaxy10(args.count, 0)
    images = torch.cat([torch.from_numpy(block) for block in blocks]).permute(0, 3, 1, 2)
    labels, train = torch.from_numpy(labels).long() % 8, round(args.count * 18000 / 20360)
    parts = {"train": slice(train), "test": slice(train, None)}
    split = {f"main_{name}_images": images[rows] for name, rows in parts.items()}
    split |= {f"main_{name}_labels": labels[rows] for name, rows in parts.items()} | {"class_names": [""] * 10}
    print(f"{machine()}, {torch.get_num_threads()} threads; {train:,} SYNTHETIC images; an epoch without, over with")
    print(f"{'':26}{'FCN':>8}{'CNN':>8}")
    for piece, without in PIECES.items():
        ratios = []
        for make_network in (make_fcn, make_cnn):
            with_it, pairs = make_epoch(make_network, split), []
            with without():
                without_it = make_epoch(make_network, split)
                without_it()
            with_it()
            for _ in range(args.rounds):
                first = seconds(with_it, CPU)
                with without():
                    pairs.append(seconds(without_it, CPU) / first)
            ratios.append(statistics.median(pairs))
        print(f"{piece:26}" + "".join(f"{ratio:7.2f}x" for ratio in ratios), flush=True)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--count", type=cli.positive_int, default=20360, metavar="N", help="number of images")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, metavar="N", help="rounds of timing both")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)

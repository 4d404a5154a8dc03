"""Time predict.py on JPEGs against a plain loop, and measure its memory.

The loop uses PIL and torchvision's transforms, one picture at a time, with the same nine crops.
"""

import shutil
from functools import partial

from benchmarks.measure import compare, peak_memory, seconds
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.synthetic import synthetic_galaxy10
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

SIDE, SIZE = 424, 69  # pixels: of the JPEGs, and of the network's images


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
            paths.append(str(folder / f"{len(paths):05d}.jpg"))
            Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def untrained(folder, seed):
    """Write a network with random weights to untrained.pt in `folder`; return its Classifier."""
    torch.manual_seed(seed)
    network = make_cnn().eval()
    record = {"source": "synthetic", "class_names": CLASS_NAMES[:8], "mean": [30.0] * 3, "std": [35.0] * 3}
    save_tensors(network.state_dict(), folder / "untrained.pt")
    save_json(record | {"image_size": SIZE}, folder / "untrained.json")
    options = {"crops": 9, "symmetries": False, "device": "cpu", "field": 1.0, "thumbnails": False}
    return Classifier(str(folder / "untrained.pt"), weights_hash(network.state_dict()), **options)


def plain_loop(paths, network, record):
    """Return the probabilities, float32 (n, classes), computed one picture at a time."""
    to_tensor = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()])
    normalize = transforms.Normalize(record["mean"], record["std"])
    found = []
    for path in paths:
        image = to_tensor(Image.open(path).convert("RGB")).float()
        crops = [normalize(functional.crop(image, top, left, 48, 48)) for top, left in grid(SIZE, 9)]
        with torch.no_grad():
            found.append(network(torch.stack(crops)).softmax(1).mean(0))
    return torch.stack(found)


def predicted(paths, classifier):
    """Return the probabilities, float32 (n, classes), computed as predict.py does."""
    batches = predictions(paths, classifier)
    return torch.tensor([found["probabilities"] for batch in batches for found in batch.records])


def memory_of_many(folder, jpeg, count):
    """Return the peak memory in GB of predict.py on `count` pictures: a JPEG and many small ones."""
    listed, small = folder / "pictures.txt", folder / "small.png"
    Image.open(jpeg).resize((SIZE, SIZE)).save(small)
    listed.write_text(f"{jpeg}\n" + f"{small}\n" * (count - 1))
    with listed.open() as stdin:
        outputs = "--model", folder / "untrained.pt", "--csv", folder / "answers.csv"
        return peak_memory("predict.py", "-", *outputs, stdin=stdin)


def time_pictures(folder, count, rounds, seed):
    """Return the timings of predict.py and the loop on `count` JPEGs, and the mean difference of probabilities."""
    paths, classifier = write_jpegs(folder / "pictures", count, seed), untrained(folder, seed)
    network, record, _ = load_network(classifier.model)
    ways = partial(predicted, classifier=classifier), partial(plain_loop, network=network, record=record)
    ours, loop = (way(paths[:200]) for way in ways)  # also to warm up
    timing = compare(*(partial(seconds, partial(way, paths)) for way in ways), rounds)
    difference = (ours - loop).abs().mean().item()
    return timing | {"images_per_second": count / timing["seconds"], "difference": difference}

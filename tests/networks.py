"""Networks with random weights and the records that training would write beside them, made in milliseconds."""

from common.galaxies.appearance import appearance_range
from common.galaxies.facts import CLASS_NAMES
from common.storage.artifacts import save_json, save_tensors
from common.storage.checkpoint import weights_hash
from use.trained import NETWORKS, load_network

import h5py
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

NINE = [(top, left) for top in (0, 10, 20) for left in (0, 10, 20)]  # crops of a picture of 69 pixels


def galaxies(count, size=69, seed=0):
    """Return blurred ellipses on a dark sky, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    images = []
    for _ in range(count):
        angle, width, length = rng.uniform(0, np.pi), rng.uniform(2, 8), rng.uniform(8, 16)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        light = np.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)[..., None]
        images.append(light * rng.uniform(80, 200, 3) + rng.normal(12, 3, (size, size, 3)))
    return np.array(images).clip(0, 255).astype(np.uint8)


def save_pictures(folder, names):
    """Write a picture of a galaxy by each name into `folder`, which is made if need be."""
    folder.mkdir(exist_ok=True)
    for name, pixels in zip(names, galaxies(len(names), seed=5), strict=True):
        Image.fromarray(pixels).save(folder / name)


def save_cutouts(path, rows):
    """Write an HDF5 file of `rows` images of 69 pixels, a hundred again and again."""
    images = galaxies(100)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (rows, 69, 69, 3), "uint8", chunks=(100, 69, 69, 3))
        for row in range(0, rows, 100):
            file["images"][row : row + 100] = images


def save_network(folder, name="q3_cnn", size=69, source="synthetic", **changes):
    """Write {name}.pt and {name}.json into `folder`, as training does; return the path of the first."""
    torch.manual_seed(1)
    network = NETWORKS[name]()
    with torch.no_grad():
        list(network.parameters())[-2].mul_(20)  # so that probabilities differ
    trained = network[-1] if name == "q5_transfer" else network
    images = torch.from_numpy(galaxies(200, size)).permute(0, 3, 1, 2)
    class_names = list(CLASS_NAMES[8:] if name == "q5_transfer" else CLASS_NAMES[:8])
    record = {
        "source": source,
        "fingerprint": "f" * 64,
        "weights_sha256": weights_hash(network.state_dict()),
        "args": {"epochs": 3, "batch_size": 64, "lr": 0.002, "seed": 0},
        "class_names": class_names,
        "other_class_names": [name for name in CLASS_NAMES if name not in class_names],
        "mean": images.float().mean((0, 2, 3)).tolist(),
        "std": images.float().std((0, 2, 3)).tolist(),
        "image_size": size,
        "appearance": appearance_range(images),
        "train_counts": list(range(10, 10 + len(class_names))),
        "test_counts": [40] * len(class_names),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trainable_parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "test_loss": 0.5,
        "test_accuracy": 0.75,
        "test_accuracy_interval": [0.7, 0.8],
        "test_count": 300,
        "recall": [0.75] * len(class_names),
        "majority_accuracy": 0.34,
        **changes,
    }
    save_tensors(network.state_dict(), folder / f"{name}.pt")
    save_json(record, folder / f"{name}.json")
    return folder / f"{name}.pt"


def plain_logits(path, images, corners=NINE):
    """Return the logits, float64 (crops, n, k), of crops of images, uint8 (n, 3, h, w), by torchvision's transforms."""
    network, record, _ = load_network(path)
    normalize = transforms.Normalize(record["mean"], record["std"])
    with torch.no_grad():
        crops = [normalize(images[:, :, y : y + 48, x : x + 48].float()).double() for y, x in corners]
        return torch.stack([network.double()(each) for each in crops])

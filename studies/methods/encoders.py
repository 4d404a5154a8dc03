"""A larger encoder of timm, and its features of the galaxies, at the resolution of the file that Q1 has read."""

import hashlib
from pathlib import Path

from common.galaxies.facts import SUBSETS
from common.galaxies.hdf5 import dataset, open_hdf5, reading, resize, row_blocks
from common.galaxies.source import galaxies_file
from common.storage.artifacts import load_json, save_tensors
from common.storage.checkpoint import load_weights, weights_hash
from common.storage.packages import require

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

BATCH_SIZE = 32
SEEN = (
    "Zoobot was trained on Galaxy Zoo's pictures of SDSS and DECaLS: it has seen galaxies of Galaxy10, test images too."
)


def load_encoder(name, weights=None):
    """Return timm's model `name` without its classifier, frozen, and its data config: input_size, mean, std and more.

    name: as timm.create_model takes it, hf_hub:OWNER/MODEL and local-dir:FOLDER included; weights: a state_dict file of
    it. Nothing is downloaded with `weights`, or when the Hub's cache has the model. Raises ValueError when timm is
    missing, has no such model or cannot get its weights, and as `load_weights` does.
    """
    require(f"--encoder {name}", "timm")
    import timm

    source, _, repository = name.partition(":")
    hub = source.lower().replace("_", "-") == "hf-hub"
    by_folder = "download its config.json and weights, and give their folder as --encoder local-dir:FOLDER"
    architecture = name
    if hub and weights is not None:  # timm would ask the Hub for the configuration
        owner, _, architecture = repository.rpartition("/")
        if owner != "timm" or not timm.is_model(architecture):
            raise ValueError(f"--encoder {name} --encoder-weights: only the Hub knows its architecture: {by_folder}")
    try:
        if weights is None and source != "local-dir":
            known = None if hub else timm.models.get_pretrained_cfg(architecture)
            folder = cached_folder(repository if hub else known.hf_hub_id if known else None)
            architecture = f"local-dir:{folder}" if folder else architecture
        encoder = timm.create_model(architecture, pretrained=weights is None, num_classes=0)
    except Exception as error:  # timm and huggingface_hub raise a dozen types
        hint = "check the name and the network, or name a file with --encoder-weights"
        hint = f"check the name and the network, or {by_folder}" if hub else hint
        hint = "check the name" if weights is not None or source == "local-dir" else hint
        raise ValueError(f"--encoder {name}: timm cannot load it ({error}): {hint}") from None
    if weights is not None:
        load_encoder_weights(encoder, weights, name)
    return encoder.eval().requires_grad_(False), timm.data.resolve_model_data_config(encoder)


def cached_folder(repository):
    """Return the folder of the Hub's cache that has a model of timm, or None: no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    if not repository:
        return None
    name, _, revision = repository.partition("@")
    files = ("config.json", "model.safetensors")
    found = [try_to_load_from_cache(name, file, revision=revision or None) for file in files]
    return Path(found[0]).parent if all(isinstance(each, str) for each in found) else None


def load_encoder_weights(encoder, path, name):
    """Load the state_dict at `path` into timm's `encoder`; that of a classifier, which it no longer has, is left out.

    Raises ValueError when names or shapes differ otherwise.
    """
    weights = load_weights(path, made_by=f"the download of {name}'s weights")
    classifier = encoder.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        encoder.load_state_dict(
            {key: value for key, value in weights.items() if not key.startswith(tuple(f"{head}." for head in heads))}
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the weights of {name} ({error})") from None


def find_pictures(out, size):
    """Return the file with larger pictures than Q1's, of `size` pixels, and a sentence on which the encoder sees.

    It is the HDF5 file that q1_data.py has read, by the record beside q1_data.pt; None where there is none.
    """
    record_path = Path(out) / "q1_data.json"
    path = galaxies_file(load_json(record_path), out) if record_path.is_file() else None
    sees = f"The encoder sees the pictures of {size} x {size} pixels in q1_data.pt"
    if path is None:
        return None, f"{sees}: there is no file of larger ones."
    if not path.is_file():
        return None, f"{sees}: {path}, which q1_data.py has read, is not there any more."
    with open_hdf5(path) as file:
        own = dataset(path, file, "images").shape[1]
    if own <= size:
        return None, f"{sees}: those in {path.name} are no larger."
    return path, f"The encoder sees the pictures of {own} x {own} pixels in {path.name}, not the {size} of q1_data.pt."


def batches(images, path=None):
    """Yield all pictures in the order of the galaxies' file, uint8 (m, 3, h, w), m at most BATCH_SIZE.

    images: Q1's, uint8 (n, 3, h, w); path: the HDF5 file with larger ones. Raises ValueError when that is damaged, or
    when its pictures, resized, are not Q1's.
    """
    if path is None:
        yield from images.split(BATCH_SIZE)
        return
    with reading(path), open_hdf5(path) as file:
        pictures, others = dataset(path, file, "images"), f"{path} has other pictures than q1_data.pt: rerun q1_data.py"
        if len(pictures) != len(images):
            raise ValueError(others)
        for rows in row_blocks(pictures):
            block = np.array(pictures[rows])
            small = resize(block, images.shape[-1]).astype(int)
            if np.abs(small - images[rows].permute(0, 2, 3, 1).numpy()).max() > 1:  # the last bit may be rounded
                raise ValueError(others)
            yield from torch.from_numpy(block).permute(0, 3, 1, 2).split(BATCH_SIZE)


@torch.inference_mode()
def encode(encoder, config, pictures, device):
    """Return the features, float32 (n, d), of whole pictures, batches of uint8 (m, 3, h, w).

    They are resized to the encoder's own input size and normalised with its own mean and std, of values from 0 to 1.
    """
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    mode = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    features, encoder = [], encoder.to(device)
    for batch in pictures:
        pixels = batch.to(device).float() / 255
        resized = functional.interpolate(pixels, (height, width), mode=mode, antialias=True)
        features.append(encoder((resized.clamp(0, 1) - mean) / std).cpu())
    return torch.cat(features)


def encoder_features(name, weights, size, data, out, device):
    """Compute the encoder's features of all galaxies of Q1's `data`; return their file's name and what made them.

    Returned too: sentences on which pictures the encoder sees, and has seen. The file in {out}/studies has `features`,
    float32 (n, d), in the order of the galaxies' file, for each encoder, its weights, input size, pictures and the
    fingerprint of the data one. size: pixels, in place of the encoder's own input size.
    """
    encoder, config = load_encoder(name, weights)
    if size:
        config |= {"input_size": (3, size, size)}
    path, note = find_pictures(out, data["main_train_images"].shape[-1])
    made_from = {
        "encoder": name,
        "encoder_weights": weights_hash(encoder.state_dict()),
        "fingerprint": data["fingerprint"],
        **{key: config[key] for key in ("mean", "std", "interpolation")},
        "input_size": list(config["input_size"]),
        "pictures": path.name if path else "q1_data.pt",
    }
    key = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:16]
    file = Path(out) / "studies" / f"encoder-{key}.pt"
    if not file.is_file():
        place = np.argsort(np.concatenate([data[f"{subset}_indices"] for subset in SUBSETS]))
        images = torch.cat([data[f"{subset}_images"] for subset in SUBSETS])[place]
        steps = tqdm(batches(images, path), desc=f"features of {name}", unit="batch", leave=False, disable=None)
        save_tensors({"features": encode(encoder, config, steps, device)}, file)
    known = f"{name} {weights} {encoder.pretrained_cfg}".lower()
    return file.name, made_from, [note, *([SEEN] if "zoobot" in known else [])]

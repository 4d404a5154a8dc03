"""Features of a pretrained image encoder of timm (optional: pip install -r requirements-extra.txt), frozen."""

import hashlib
from pathlib import Path

import torch
from torch.nn import functional
from tqdm import tqdm

from common.storage.artifacts import load_tensors, save_tensors
from common.storage.checkpoint import weights_hash

BATCH_SIZE = 32


def load_encoder(name, weights=None):
    """Return timm's model `name` without its classifier, frozen, and its data config: input_size, mean, std and more.

    name: as timm.create_model takes it, hf_hub:OWNER/MODEL included; weights: a state_dict file of it, in place of
    those that timm downloads. Raises ValueError when timm is missing, has no such model or cannot get its weights,
    and as `load_tensors` does.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(
            f"--encoder {name} needs the package timm, which is not installed: pip install -r requirements-extra.txt"
        ) from None
    try:
        encoder = timm.create_model(name, pretrained=weights is None, num_classes=0)
    except Exception as error:  # timm and huggingface_hub raise a dozen types
        hint = "check the name and the network, or name a file with --encoder-weights"
        raise ValueError(f"--encoder {name}: timm cannot load it ({error}): {hint}") from None
    if weights is not None:
        load_encoder_weights(encoder, weights, name)
    return encoder.eval().requires_grad_(False), timm.data.resolve_model_data_config(encoder)


def load_encoder_weights(encoder, path, name):
    """Load the state_dict at `path` into timm's `encoder`; that of a classifier, which it no longer has, is left out.

    Raises ValueError when names or shapes differ otherwise.
    """
    weights = load_tensors(path, made_by=f"the download of {name}'s weights")
    classifier = encoder.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        encoder.load_state_dict(
            {key: value for key, value in weights.items() if not key.startswith(tuple(f"{head}." for head in heads))}
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the weights of {name} ({error})") from None


@torch.inference_mode()
def encode(encoder, config, images, progress=None):
    """Return the features, float32 (n, d), of whole images, uint8 (n, 3, h, w).

    They are resized to the encoder's own input size and normalised with its own mean and std, of values from 0 to 1.
    progress: what a progress bar says.
    """
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    mode = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    features = []
    for batch in tqdm(images.split(BATCH_SIZE), desc=progress, unit="batch", leave=False, disable=None):
        resized = functional.interpolate(batch.float() / 255, (height, width), mode=mode, antialias=True)
        features.append(encoder((resized.clamp(0, 1) - mean) / std))
    return torch.cat(features)


def transfer_features(name, weights, size, data, folder):
    """Compute the encoder's features of all transfer images of Q1's `data`; return their file and what made them.

    The file has `features`, float32 (n, d): rows of the training images, then of the test images. It is kept in
    `folder`, one for each encoder, its weights, input size and the fingerprint of the data. size: pixels, in place of
    the encoder's own input size.
    """
    encoder, config = load_encoder(name, weights)
    if size:
        config |= {"input_size": (3, size, size)}
    made_from = {
        "encoder": name,
        "encoder_weights": weights_hash(encoder.state_dict()),
        "fingerprint": data["fingerprint"],
        "input_size": list(config["input_size"]),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
    }
    key = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:16]
    path = Path(folder) / f"encoder-{key}.pt"
    if not path.is_file():
        images = torch.cat([data["transfer_train_images"], data["transfer_test_images"]])
        save_tensors({"features": encode(encoder, config, images, f"features of {name}"), **made_from}, path)
    return path, made_from

"""A larger encoder from timm, and its features of the galaxies, at the resolution of the file that Q1 has read."""

from pathlib import Path
from textwrap import shorten

from common.galaxies.facts import SUBSETS
from common.galaxies.hdf5 import dataset, open_hdf5, reading, resize, row_blocks
from common.galaxies.source import galaxies_file
from common.storage.artifacts import load_json, save_tensors
from common.storage.checkpoint import load_weights, weights_hash
from common.storage.packages import require
from studies.methods.training import short_hash

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

BATCH_SIZE = 32
SEEN = "Zoobot was trained on Galaxy Zoo's pictures of SDSS and DECaLS, which include galaxies of Galaxy10's test set."


def load_encoder(name, weights=None):
    """Return timm's model `name` without its classifier, frozen, and its data config: input_size, mean, std and more.

    name: as for timm.create_model, such as hf_hub:OWNER/MODEL or local-dir:FOLDER; weights: file of its state_dict, by
    default those that timm downloads. Raises ValueError if timm is missing or cannot load the model or its weights.
    """
    require(f"--encoder {name}", "timm")
    import timm

    try:
        encoder = timm.create_model(name, pretrained=weights is None, num_classes=0)
        if weights is not None:
            classifier = encoder.pretrained_cfg.get("classifier") or ()
            heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
            tensors = load_weights(weights, made_by=f"the download of {name}'s weights")
            encoder.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(heads)})
    except Exception as error:  # timm and huggingface_hub raise a dozen types
        remedy = "check the name and the files, or download both and give --encoder local-dir:FOLDER"
        raise ValueError(f"--encoder {name}: timm cannot load it ({shorten(str(error), 200)}): {remedy}") from None
    return encoder.eval().requires_grad_(False), timm.data.resolve_model_data_config(encoder)


def larger_pictures(out, size):
    """Return the HDF5 file that Q1 has read if its pictures have more than `size` pixels, or None, and a sentence."""
    path = galaxies_file(load_json(Path(out) / "q1_data.json"), out)
    sees = f"The encoder sees the pictures of {size} x {size} pixels in q1_data.pt"
    if not path.is_file():
        return None, f"{sees}: {path}, which q1_data.py has read, no longer exists."
    with open_hdf5(path) as file:
        own = dataset(path, file, "images").shape[1]
    if own <= size:
        return None, f"{sees}: those in {path.name} are no larger."
    return path, f"The encoder sees the pictures of {own} x {own} pixels in {path.name}, not the {size} of q1_data.pt."


def picture_batches(images, path=None):
    """Yield all pictures, in the order of the galaxies' file, as uint8 (m, 3, h, w), m at most BATCH_SIZE.

    images: Q1's, uint8 (n, 3, h, w); path: the HDF5 file with larger ones. Raises ValueError if that is damaged or
    its pictures, resized, are not Q1's.
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

    They are resized to the encoder's input size and normalised with its mean and std, which are for values from 0 to 1.
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

    Also return sentences on which pictures the encoder sees and has seen. The file, in {out}/studies, holds `features`,
    float32 (n, d), in the order of the galaxies' file. size: pixels, in place of the encoder's own input size.
    """
    encoder, config = load_encoder(name, weights)
    if size:
        config |= {"input_size": (3, size, size)}
    path, note = larger_pictures(out, data["main_train_images"].shape[-1])
    made_from = {
        "encoder": name,
        "encoder_weights": weights_hash(encoder.state_dict()),
        "fingerprint": data["fingerprint"],
        **{key: config[key] for key in ("mean", "std", "interpolation")},
        "input_size": list(config["input_size"]),
        "pictures": path.name if path else "q1_data.pt",
    }
    file = Path(out) / "studies" / f"encoder-{short_hash(sorted(made_from.items()))}.pt"
    if not file.is_file():
        place = np.argsort(np.concatenate([data[f"{subset}_indices"] for subset in SUBSETS]))
        images = torch.cat([data[f"{subset}_images"] for subset in SUBSETS])[place]
        steps = tqdm(picture_batches(images, path), desc=f"features of {name}", unit="batch", leave=False, disable=None)
        save_tensors({"features": encode(encoder, config, steps, device)}, file)
    known = f"{name} {weights} {encoder.pretrained_cfg}".lower()
    return file.name, made_from, [note, *([SEEN] if "zoobot" in known else [])]

"""Backbones out of checkpoint files."""

import hashlib

from common.artifacts import load_tensors
from common.models import convolutional_backbone


def load_backbone(path):
    """Return the cnn_backbone in the file at `path`, with a word on what the file was.

    Taken are the state_dict of the whole CNN, as q3_cnn.py writes it, and that of a cnn_backbone alone.
    Raises FileNotFoundError, or ValueError that sets what was expected against what was found.
    """
    weights = load_tensors(path, made_by="q3_cnn.py")
    cnn_backbone = convolutional_backbone()
    expected = {key: tuple(value.shape) for key, value in cnn_backbone.state_dict().items()}
    if not isinstance(weights, dict) or not all(hasattr(value, "shape") for value in weights.values()):
        raise ValueError(f"{path} holds no state_dict: expected {describe_shapes(expected)}")
    kind = "a cnn_backbone"
    if any(key.startswith("0.0.") for key in weights):
        kind = "the backbone of a CNN"
        weights = {key.removeprefix("0."): value for key, value in weights.items() if key.startswith("0.")}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if found != expected:
        raise ValueError(
            f"{path} is not a state_dict of cnn_backbone or of the CNN: "
            f"expected {describe_shapes(expected)}; found {describe_shapes(found)}"
        )
    cnn_backbone.load_state_dict(weights)
    return cnn_backbone, kind


def describe_shapes(shapes):
    """Return names and shapes as `0.weight 8x3x5x5, ...`, or `nothing`."""
    texts = [f"{key} {'x'.join(map(str, shape)) or 'scalar'}" for key, shape in shapes.items()]
    return ", ".join(texts) or "nothing"


def weights_hash(model):
    """Return the SHA-256, in hexadecimal, of all names and values of a state_dict."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""Networks and backbones out of checkpoint files."""

import hashlib
from pathlib import Path

from common.artifacts import load_tensors, load_weights
from common.models import classifier, convolutional_backbone, fully_connected


def load_trained(out):
    """Return Q2's and Q3's networks, as fcn and cnn, with the weights in the artifacts folder `out`."""
    networks = {"fcn": fully_connected(), "cnn": classifier(convolutional_backbone(), num_classes=8)}
    for question, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
        load_weights(network, Path(out) / f"{question}.pt", made_by=f"{question}.py")
    return networks


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

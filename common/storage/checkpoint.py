"""Weights: their hash, and networks and backbones from checkpoint files of any origin."""

import hashlib
import re
from pathlib import Path

from common.storage.artifacts import load_json, load_tensors
from common.storage.packages import require
from common.storage.recognize import recognize, shapes_of


def cpu_state_dict(model):
    """Return the state_dict of `model` on the CPU, every tensor contiguous."""
    return {key: value.cpu().contiguous() for key, value in model.state_dict().items()}


def weights_hash(weights):
    """Return the SHA-256, in hexadecimal, of all names and values of a state_dict."""
    digest = hashlib.sha256()
    for key, value in weights.items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(path, made_by):
    """Return the state_dict in a file of torch.save or safetensors, or in a folder of export.py, on the CPU.

    Raises FileNotFoundError, saying that `made_by` makes it, or ValueError when it is not such a file.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        return load_tensors(path, made_by)
    require(f"{path}: reading it", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)  # sorted as text: 10 before 2
    except SafetensorError as error:
        raise ValueError(f"{path} is not a file of safetensors, or a damaged one ({error})") from None
    return {key: weights[key] for key in sorted(weights, key=natural_order)}


def natural_order(name):
    """Return a key by which texts are sorted with the numbers in them as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def record_of(path):
    """Return the path of the JSON record that belongs to a checkpoint, a file or a folder of export.py."""
    path = Path(path)
    if path.is_dir():
        return path / "config.json"
    exported = path.with_name("config.json")
    return exported if path.name == "model.safetensors" and exported.is_file() else path.with_suffix(".json")


def load_trained(network, path, data, made_by, force=False):
    """Load the state_dict that the script `made_by` wrote at `path` into `network`.

    Raises FileNotFoundError, or ValueError when its names or shapes are not the network's, or as `check_origin` does
    when it was not trained on `data`.
    """
    try:
        network.load_state_dict(load_tensors(path, made_by))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the weights of this network: rerun {made_by} ({error})") from None
    check_origin(path, weights_hash(network.state_dict()), data, force)


def check_origin(path, weights_sha256, data, force):
    """Compare a checkpoint with the JSON record beside it, if there is one: is it of these weights and this data?

    Raises ValueError when it is not, or with `force` prints why. weights_sha256: the whole network's, None for
    a backbone alone; data: Q1's dict.
    """
    path = Path(path)
    record_path = record_of(path)
    if not record_path.is_file():
        print(f"{path}: no {record_path.name} next to it, so what it was trained on is unknown.")
        return
    record = load_json(record_path)
    complaint = None
    if record.get("fingerprint", data["fingerprint"]) != data["fingerprint"]:
        complaint = f"{path} was trained on different data or a different split than this q1_data.pt"
    elif weights_sha256 and record.get("weights_sha256", weights_sha256) != weights_sha256:
        complaint = f"{path} and {record_path.name} come from different runs"
    if complaint and not force:
        raise ValueError(f"{complaint}: train it again, or add --force to use it anyway")
    if complaint:
        print(f"{complaint}: using it anyway (--force).")


def check_unchanged(model, hash_before):
    """Raise AssertionError unless the weights of `model` have the hash that they had before: those of a frozen one."""
    if weights_hash(model.state_dict()) != hash_before:
        raise AssertionError("the backbone's weights changed during training, though they are frozen")
    print(f"The backbone is unchanged: SHA-256 of its weights {hash_before[:16]}")


def load_backbone(cnn_backbone, path, data, force=False):
    """Load the weights of a backbone in a checkpoint into `cnn_backbone`; return what the file was, as a phrase.

    Accepted are the state_dicts of nn.Sequential(cnn_backbone, head), with a linear head of any size, and of a
    cnn_backbone alone, written by torch.save or safetensors, in any floating-point precision, wherever `recognize`
    finds them. Nothing in the file is executed. Raises FileNotFoundError, or ValueError that says what was expected and
    what was found; and as `check_origin` does when it was not trained on `data`.
    """
    backbone = shapes_of(cnn_backbone.state_dict())
    features = list(backbone.values())[-1][0]  # the length of the last layer's bias
    whole = {f"0.{key}": shape for key, shape in backbone.items()} | {"1.weight": (None, features), "1.bias": (None,)}
    networks = {"a cnn_backbone": backbone, "the backbone of a CNN": whole}
    content = load_weights(path, made_by="q3_cnn.py")
    found = recognize(path, content, networks, "the networks of q3_cnn.py and q5_transfer.py")
    weights, remarks = in_float32(path, found)
    if found.kind == "a cnn_backbone":
        cnn_backbone.load_state_dict(weights)
        check_origin(path, None, data, force)
        return ", ".join([found.kind, *remarks])
    cnn_backbone.load_state_dict({key: weights[f"0.{key}"] for key in backbone})
    check_origin(path, weights_hash(weights), data, force)
    return ", ".join([f"{found.kind} of {len(weights['1.bias'])} classes", *remarks])


def in_float32(path, found):
    """Return the tensors of the Weights found in a file, as float32, and all remarks on them, as a list of phrases.

    Raises ValueError when they are not floating-point numbers, or not finite.
    """
    weights = {}
    for own, name in found.names.items():
        value = found.tensors[own]
        if not value.is_floating_point():
            raise ValueError(f"{path}: expected floating-point weights, found {value.dtype} in {name}")
        weights[own] = value.float()
        if not weights[own].isfinite().all():
            raise ValueError(f"{path}: expected finite weights, found NaN or infinity in {name}")
    dtypes = {str(value.dtype).removeprefix("torch.") for value in found.tensors.values()} - {"float32"}
    return weights, found.remarks() + ([f"{' and '.join(sorted(dtypes))} weights, now float32"] if dtypes else [])

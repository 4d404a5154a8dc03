"""Weights: their hash, and networks and backbones from checkpoint files of any origin."""

import hashlib
from pathlib import Path

from common.storage.artifacts import load_json, load_tensors

import torch

CONTAINERS = ("state_dict", "model", "model_state_dict")  # under which training loops keep the weights
WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}  # what wrapping a model puts before its keys


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
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path}: reading it requires the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a file of safetensors, or a damaged one ({error})") from None


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
    cnn_backbone alone, written by torch.save or safetensors, in any floating-point precision, bare or inside a dict
    under one of CONTAINERS, also with the prefixes of WRAPPERS. Nothing in the file is executed. Raises
    FileNotFoundError, or ValueError that says what was expected and what was found; and as `check_origin` does when it
    was not trained on `data`.
    """
    path = Path(path)
    content, remarks = load_weights(path, made_by="q3_cnn.py"), []
    for container in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            remarks.append(f"found under '{container}'")
    weights, wrappers = unwrapped(path, content)
    remarks += [f"saved from {WRAPPERS[wrapper]} ('{wrapper}.')" for wrapper in wrappers]

    expected, found = shapes_of(cnn_backbone.state_dict()), shapes_of(weights)
    features = list(expected.values())[-1][0]  # the length of the last layer's bias
    classes = (found.get("1.weight") or (0,))[0]
    whole = {f"0.{key}": shape for key, shape in expected.items()}
    whole |= {"1.weight": (classes, features), "1.bias": (classes,)}
    if found not in (expected, whole):
        raise ValueError(
            f"{path} is not a state_dict of cnn_backbone, nor of the CNN (with 0. before these names, and a head "
            f"1.weight, 1.bias): expected {list_shapes(expected)}; found {list_shapes(found)}"
        )
    dtypes = {str(value.dtype).removeprefix("torch.") for value in weights.values()} - {"float32"}
    if dtypes:
        remarks.append(f"{' and '.join(sorted(dtypes))} weights, now float32")
    for key, value in weights.items():
        if not value.is_floating_point():
            raise ValueError(f"{path}: expected floating-point weights, found {value.dtype} in {key}")
        weights[key] = value.float()
        if not weights[key].isfinite().all():
            raise ValueError(f"{path}: expected finite weights, found NaN or infinity in {key}")

    if found == expected:
        cnn_backbone.load_state_dict(weights)
        check_origin(path, None, data, force)
        return ", ".join(["a cnn_backbone", *remarks])
    cnn_backbone.load_state_dict({key: weights[f"0.{key}"] for key in expected})
    check_origin(path, weights_hash({key: weights[key] for key in whole}), data, force)
    return ", ".join([f"the backbone of a CNN of {classes} classes", *remarks])


def unwrapped(path, content):
    """Return a state_dict without the prefixes of WRAPPERS in its keys, and those that there were."""
    if not isinstance(content, dict) or not content or not all(map(is_weight, content.values())):
        raise ValueError(f"{path} holds no state_dict: expected a dict of tensors by name, found {diagnose(content)}")
    parts = {key: str(key).split(".") for key in content}
    weights = {".".join(part for part in parts[key] if part not in WRAPPERS): value for key, value in content.items()}
    if len(weights) < len(content):
        raise ValueError(f"{path} holds two state_dicts: expected one of cnn_backbone or of the CNN")
    return weights, [wrapper for wrapper in WRAPPERS if any(wrapper in names for names in parts.values())]


def is_weight(value):
    """Return whether a value is a plain tensor: dense, not quantised, with its data in the file."""
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return plain and not value.is_quantized and not value.is_meta


def shapes_of(weights):
    """Return the shape of each tensor of a state_dict, as tuples."""
    return {key: tuple(value.shape) for key, value in weights.items()}


def diagnose(content):
    """Return in a few words what a file holds instead of a state_dict."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not is_weight(value)]
    return f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}" or "nothing"


def list_shapes(shapes, most=16):
    """Return names and shapes as `0.weight 8x3x5x5, ...`, `most` of them at most, or `nothing`."""
    texts = [f"{key} {'x'.join(map(str, shape)) or 'scalar'}" for key, shape in shapes.items()]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "") or "nothing"

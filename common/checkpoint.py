"""Networks and backbones out of checkpoint files, one's own and other people's."""

from pathlib import Path

import torch

from common.artifacts import load_json, load_tensors, load_weights
from common.models import classifier, convolutional_backbone, fully_connected, weights_hash

CONTAINERS = ("state_dict", "model", "model_state_dict")  # under which training loops keep the weights
WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}  # what wrapping a model puts before its keys


def load_trained(out, data, force=False):
    """Return Q2's and Q3's networks, as fcn and cnn, with the weights in the artifacts folder `out`.

    Raises ValueError as `check_origin` does, for a network that was not trained on `data`.
    """
    networks = {"fcn": fully_connected(), "cnn": classifier(convolutional_backbone(), num_classes=8)}
    for question, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
        path = Path(out) / f"{question}.pt"
        load_weights(network, path, made_by=f"{question}.py")
        check_origin(path, weights_hash(network), data, force)
    return networks


def check_origin(path, weights_sha256, data, force):
    """Hold a checkpoint against the JSON record beside it, if there is one: is it of these weights, and this data?

    Raises ValueError when it is not, or with `force` prints why. weights_sha256: the whole network's, None for
    a backbone alone; data: Q1's dict.
    """
    path = Path(path)
    record_path = path.with_suffix(".json")
    if not record_path.is_file():
        print(f"{path}: without {record_path.name} beside it there is no telling what it was trained on.")
        return
    record = load_json(record_path)
    complaint = None
    if record.get("fingerprint", data["fingerprint"]) != data["fingerprint"]:
        complaint = f"{path} was trained on other data or another split than the q1_data.pt that is used now"
    elif weights_sha256 and record.get("weights_sha256", weights_sha256) != weights_sha256:
        complaint = f"{path} and {record_path.name} are of two different runs"
    if complaint and not force:
        raise ValueError(f"{complaint}: train it again, or use it all the same with --force")
    if complaint:
        print(f"{complaint}: used all the same (--force).")


def classes_learnt(path, weights_sha256, data):
    """Return the number of classes that the CNN at `path` was trained on, by the JSON record beside it.

    It is None unless the record says that these are the weights trained on `data`, Q1's dict: the backbone is given.
    weights_sha256: the whole network's, None for a backbone alone.
    """
    record_path = Path(path).with_suffix(".json")
    record = load_json(record_path) if record_path.is_file() else {}
    origin = record.get("weights_sha256"), record.get("fingerprint")
    if weights_sha256 is None or origin != (weights_sha256, data["fingerprint"]):
        return None
    return len(data["main_train_labels"].unique())


def load_backbone(path):
    """Return the cnn_backbone in a checkpoint, a phrase on what the file was, and the hash of the whole CNN in it.

    Taken are the state_dicts of the CNN, with a head of any size, and of a cnn_backbone alone (the hash is
    None then), in any floating-point precision, bare or inside a dict under one of CONTAINERS, also with the
    prefixes of WRAPPERS. Nothing in the file is executed. Raises FileNotFoundError, or ValueError that sets
    what was expected against what was found.
    """
    path = Path(path)
    content, remarks = load_tensors(path, made_by="q3_cnn.py"), []
    for container in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            remarks.append(f"found under '{container}'")
    weights, wrappers = unwrapped(path, content)
    remarks += [f"saved from {WRAPPERS[wrapper]} ('{wrapper}.')" for wrapper in wrappers]

    expected = shapes_of(convolutional_backbone().state_dict())
    found = shapes_of(weights)
    head = (found.get("1.weight") or (0,))[0]
    whole = {f"0.{key}": shape for key, shape in expected.items()} | {"1.weight": (head, 64), "1.bias": (head,)}
    if found not in (expected, whole):
        raise ValueError(
            f"{path} is not a state_dict of cnn_backbone, nor of the CNN (with 0. before these names, and a head "
            f"1.weight, 1.bias): expected {describe_shapes(expected)}; found {describe_shapes(found)}"
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

    cnn_backbone = convolutional_backbone()
    if found == expected:
        cnn_backbone.load_state_dict(weights)
        return cnn_backbone, ", ".join(["a cnn_backbone", *remarks]), None
    cnn = classifier(cnn_backbone, head)
    cnn.load_state_dict(weights)
    return cnn_backbone, ", ".join([f"the backbone of a CNN of {head} classes", *remarks]), weights_hash(cnn)


def unwrapped(path, content):
    """Return a state_dict without the prefixes of WRAPPERS in its keys, and those that there were."""
    if not isinstance(content, dict) or not content or not all(map(is_weight, content.values())):
        raise ValueError(f"{path} holds no state_dict: expected a dict of tensors by name, found {describe(content)}")
    parts = {key: str(key).split(".") for key in content}
    weights = {".".join(part for part in parts[key] if part not in WRAPPERS): value for key, value in content.items()}
    if len(weights) < len(content):
        raise ValueError(f"{path} holds two state_dicts in one: expected one of cnn_backbone or of the CNN")
    return weights, [wrapper for wrapper in WRAPPERS if any(wrapper in names for names in parts.values())]


def is_weight(value):
    """Say whether a value is a plain tensor: dense, not quantised, with its numbers in the file."""
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return plain and not value.is_quantized and not value.is_meta


def shapes_of(weights):
    """Return the shape of each tensor of a state_dict, as tuples."""
    return {key: tuple(value.shape) for key, value in weights.items()}


def describe(content):
    """Return in a few words what a file holds in place of a state_dict."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not is_weight(value)]
    return f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}" or "nothing"


def describe_shapes(shapes, most=16):
    """Return names and shapes as `0.weight 8x3x5x5, ...`, `most` of them at most, or `nothing`."""
    texts = [f"{key} {'x'.join(map(str, shape)) or 'scalar'}" for key, shape in shapes.items()]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "") or "nothing"

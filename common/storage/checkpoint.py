"""Weights: their hash, and networks and backbones from checkpoint files of any origin."""

import hashlib
from pathlib import Path

from common.storage.artifacts import load_json, load_tensors
from common.storage.packages import require

import torch


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

    Raises FileNotFoundError, or ValueError as `load_strictly` does, and as `check_origin` does when it was not trained
    on `data`.
    """
    load_strictly(network, path, load_tensors(path, made_by))
    check_origin(path, weights_hash(network.state_dict()), data, force)


def check_origin(path, weights_sha256, data, force):
    """Compare a checkpoint with the JSON record beside it, if there is one: is it of these weights and this data?

    Raises ValueError when it is not, or with `force` prints why. weights_sha256: the whole network's, None for
    a backbone alone; data: Q1's dict.
    """
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
    """Load the weights of a backbone in a checkpoint into `cnn_backbone`; return what was found, as a phrase.

    Accepted are the state_dicts of nn.Sequential(cnn_backbone, head) and of a cnn_backbone alone, written by torch.save
    or safetensors, in any floating-point precision, wherever `find_weights` finds them. Nothing in the file is
    executed. Raises FileNotFoundError, or ValueError as `find_weights`, `load_strictly` and `check_origin` do.
    """
    content = load_weights(path, made_by="q3_cnn.py")
    _, prefix, weights = find_weights(path, content, {"cnn_backbone": list(cnn_backbone.state_dict())})
    load_strictly(cnn_backbone, path, weights)
    head, whole_hash = [content.get("1.weight"), content.get("1.bias")], None
    if prefix == "0." and all(map(torch.is_tensor, head)):  # as in q3_cnn.pt
        whole = {f"0.{name}": value for name, value in cnn_backbone.state_dict().items()}
        whole_hash = weights_hash(whole | {"1.weight": head[0].float(), "1.bias": head[1].float()})
    check_origin(path, whole_hash, data, force)
    return f"a cnn_backbone, its names begin with '{prefix}'" if prefix else "a cnn_backbone"


def find_weights(path, content, networks):
    """Return which one of `networks` a checkpoint holds, the prefix of its names there, and its weights without it.

    networks: the names of each one's tensors. They are looked for with any prefix, such as "module." or "model.", in
    the file's dict and in the dicts in it: `0.bias` in the dict `net` is net.0.bias. The weights are all tensors with
    that prefix. Raises ValueError, with the names expected and found, unless there is exactly one network and prefix.
    """
    named = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            named |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            named[str(key)] = value
    tensors = {name: value for name, value in named.items() if torch.is_tensor(value)}
    found = [(kind, prefix) for kind, names in networks.items() for prefix in prefixes(tensors, names)]
    if not found:
        kinds, expected = " or ".join(networks), " or ".join(map(listed, networks.values()))
        raise ValueError(f"{path} holds no {kinds}: expected {expected}, with any prefix; found {listed(tensors)}")
    if len(found) > 1:
        places = " and ".join(repr(prefix) for _, prefix in found)
        raise ValueError(f"{path} holds {len(found)} networks, with the prefixes {places}: save one of them alone")
    [(kind, prefix)] = found
    return kind, prefix, {name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)}


def prefixes(tensors, names):
    """Return the prefixes, empty or with a dot at the end, with which all `names` are names of `tensors`."""
    ending = [each.removesuffix(names[0]) for each in tensors if f".{each}".endswith(f".{names[0]}")]
    return [prefix for prefix in ending if all(prefix + name in tensors for name in names)]


def listed(names, most=12):
    """Return names in one line, `most` of them at most."""
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def load_strictly(network, path, weights):
    """Load weights of any floating-point precision.

    Raises ValueError when they are another network's, as torch says, are no floating-point numbers or not finite.
    """
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = f"does not hold the weights of this network: rerun the script that wrote it ({error})"
        raise ValueError(f"{path} {reason}") from None
    for name, value in network.state_dict().items():
        if not (weights[name].is_floating_point() and value.isfinite().all()):
            raise ValueError(f"{path}: expected finite floating-point weights, found others in {name}")

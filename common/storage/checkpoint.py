"""Hash weights, and load networks and backbones from checkpoint files of any origin."""

import hashlib
from pathlib import Path

from common.storage.artifacts import load_json, load_tensors
from common.storage.packages import require

import torch


def cpu_state_dict(model):
    """Return the state_dict of `model` on the CPU, with contiguous tensors."""
    return {key: value.cpu().contiguous() for key, value in model.state_dict().items()}


def weights_hash(weights):
    """Return the hexadecimal SHA-256 of all names and values of a state_dict."""
    digest = hashlib.sha256()
    for key, value in weights.items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(path, made_by, **options):
    """Return the content of a torch.save or safetensors file, or of a folder written by export.py, on the CPU.

    options: for `load_tensors`. Raises FileNotFoundError, with the script `made_by` that writes the file, or ValueError
    for any other kind of file.
    """
    path = Path(path)
    if path.is_dir():
        trained, path = path / "q3_cnn.pt", path / "model.safetensors"
        if not path.is_file():
            instead = f"did you mean {trained}?" if trained.is_file() else "write one with export.py"
            raise FileNotFoundError(f"{path.parent} holds no exported network: {instead}")
    if path.suffix != ".safetensors" or not path.is_file():
        return load_tensors(path, made_by, **options)
    require(f"{path}: reading it", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged ({error})") from None


def record_of(path):
    """Return the path of the JSON record next to a checkpoint file or in a folder written by export.py."""
    path = Path(path)
    if path.is_dir():
        return path / "config.json"
    exported = path.with_name("config.json")
    return exported if path.name == "model.safetensors" and exported.is_file() else path.with_suffix(".json")


def load_trained(network, path, data, made_by, force=False):
    """Load the state_dict that the script `made_by` wrote to `path` into `network`.

    Raises FileNotFoundError, or ValueError as `load_strictly` and `check_origin` do.
    """
    load_strictly(network, path, load_tensors(path, made_by))
    check_origin(path, weights_hash(network.state_dict()), data, force)


def load_backbone(cnn_backbone, path, data, force=False):
    """Load a checkpoint's weights into `cnn_backbone`; return a phrase that describes the checkpoint.

    The checkpoint contains nn.Sequential(cnn_backbone, head) or only the backbone, in any form that `find_weights`
    recognizes and in any floating-point precision. Nothing in the file is executed. Raises FileNotFoundError, or
    ValueError as `find_weights`, `load_strictly` and `check_origin` do.
    """
    content = load_weights(path, made_by="q3_cnn.py", remedy="name another file with --backbone")
    _, prefix, weights = find_weights(path, content, {"cnn_backbone": list(cnn_backbone.state_dict())})
    load_strictly(cnn_backbone, path, weights)
    whole = {f"0.{name}": value for name, value in cnn_backbone.state_dict().items()}  # as q3_cnn.pt names them
    whole |= {name: content[name].float() for name in ("1.weight", "1.bias") if torch.is_tensor(content.get(name))}
    whole_hash = weights_hash(whole) if prefix == "0." and "1.weight" in whole and "1.bias" in whole else None
    check_origin(path, whole_hash, data, force)
    return "a cnn_backbone" if prefix in ("", "0.") else f"a cnn_backbone; its tensor names begin with '{prefix}'"


def check_origin(path, weights_sha256, data, force):
    """Check a checkpoint's weights and training data against the JSON record next to it, if there is one.

    weights_sha256: hash of the whole network, or None if there is only a backbone; data: Q1's dict. Raises ValueError
    if they differ; with `force`, prints the difference instead.
    """
    record_path = record_of(path)
    if not record_path.is_file():
        print(f"{path}: no {record_path.name} next to it, so its training data are unknown.")
        return
    record = load_json(record_path)
    if record.get("fingerprint", data["fingerprint"]) != data["fingerprint"]:
        complaint = f"{path} was trained on different data or a different split than this q1_data.pt"
    elif weights_sha256 and record.get("weights_sha256", weights_sha256) != weights_sha256:
        complaint = f"{path} and {record_path.name} come from different runs"
    else:
        return
    if not force:
        raise ValueError(f"{complaint}: train it again, or add --force to use it anyway")
    print(f"{complaint}: using it anyway (--force).")


def find_weights(path, content, networks):
    """Find one of `networks` in a checkpoint; return its name, the prefix of its tensors, and the tensors.

    networks: the tensor names of each network. They may have any prefix, such as "module." or "model.", in the file's
    dict or in a dict inside it: `0.bias` in the dict `net` is net.0.bias. All tensors with the prefix are returned,
    without it. Raises ValueError, with the expected and found names, unless exactly one network and prefix fit.
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
        raise ValueError(f"{path} holds {len(found)} networks, with the prefixes {places}: save only one of them")
    [(kind, prefix)] = found
    return kind, prefix, {name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)}


def prefixes(tensors, names):
    """Return the prefixes, empty or ending in a dot, with which `tensors` contains all `names`."""
    ending = [each.removesuffix(names[0]) for each in tensors if f".{each}".endswith(f".{names[0]}")]
    return [prefix for prefix in ending if all(prefix + name in tensors for name in names)]


def listed(names, most=12):
    """Return at most `most` names as one line."""
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def load_strictly(network, path, weights):
    """Load weights of any floating-point precision.

    Raises ValueError if they belong to another network, are not floating-point numbers or are not finite.
    """
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = f"does not hold the weights of this network: rerun the script that wrote it ({error})"
        raise ValueError(f"{path} {reason}") from None
    for name, value in network.state_dict().items():
        # (BatchNorm's count of batches is an integer in both.)
        if weights[name].is_floating_point() != value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{path}: expected finite floating-point weights, found others in {name}")

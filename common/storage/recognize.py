"""Find a network's weights in a checkpoint of any origin: inside dicts, under other names, beside other things."""

from typing import NamedTuple

import torch

# What wrapping a model puts before its names.
WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}
AVERAGES = "n_averaged"  # beside `module.` in a state_dict of AveragedModel
DEPTH = 20  # of dicts inside dicts


class Weights(NamedTuple):
    """The weights of a network in a checkpoint."""

    kind: str  # which network
    tensors: dict  # by the network's own names
    names: dict  # the names in the checkpoint, by the network's own
    levels: tuple  # keys of the dicts around them
    left_out: tuple  # names of the tensors beside them

    def remarks(self):
        """Return where and as what they were found, as a list of phrases; none for a bare state_dict of the network."""
        remarks = [f"found under {', '.join(map(repr, self.levels))}"] if self.levels else []
        parts = [name.split(".") for name in self.names.values()]
        origins = WRAPPERS | ({"module": "AveragedModel"} if AVERAGES in self.left_out else {})
        remarks += [
            f"saved from {origins[each]} ('{each}.')" for each in WRAPPERS if any(each in name for name in parts)
        ]
        names, own_names = [".".join(part for part in name if part not in WRAPPERS) for name in parts], list(self.names)
        prefix = names[0].removesuffix(own_names[0])
        if names != [prefix + name for name in own_names]:
            remarks.append(f"its layers are {', '.join(modules(names))}")
        elif prefix:
            remarks.append(f"its names begin with '{prefix}'")
        left_out = [name for name in self.left_out if name != AVERAGES]
        return remarks + (
            [f"left out: {', '.join(left_out[:5])}{' and more' * (len(left_out) > 5)}"] if left_out else []
        )


def recognize(path, content, networks, description):
    """Return the Weights of one of `networks` in `content`, what a checkpoint holds.

    networks: by kind, the shape of each tensor by name, None for any size. Looked for are tensors in one dict, at any
    depth, and with one prefix, that are the network's layers and nothing else. Among layers of one shape the names
    decide, or else the order. Raises ValueError, with the `description` of the networks, when there is not exactly one.
    """
    found, dicts = [], list(tensor_dicts(content))
    for levels, tensors in dicts:
        used = set()
        for group in groups(tensors):
            for kind, shapes in networks.items():
                names = match({name: tensors[name] for name in group}, shapes)
                if names and used.isdisjoint(names.values()):
                    used.update(names.values())
                    weights = {own: tensors[name] for own, name in names.items()}
                    others = tuple(name for name in tensors if name not in names.values())
                    found.append(Weights(kind, weights, names, levels, others))
    if len(found) == 1:
        return found[0]
    if found:
        places = [".".join((*each.levels, next(iter(each.names.values())))) for each in found[:3]]
        count = "two" if len(found) == 2 else len(found)
        raise ValueError(f"{path} holds {count} state_dicts: expected one alone, found {' and '.join(places)}")
    most = max((tensors for _, tensors in dicts), key=len, default={})
    if not most or not all(map(is_weight, most.values())):
        raise ValueError(
            f"{path} holds no state_dict: expected a dict of tensors by name, found {diagnose(content, most)}"
        )
    expected = " or ".join(list_shapes(shapes) for shapes in networks.values())
    raise ValueError(f"{path} holds none of {description}: expected {expected}; found {list_shapes(shapes_of(most))}")


def tensor_dicts(content, levels=(), seen=None):
    """Yield, for `content` and each dict inside it, the keys that lead to it and the tensors that it holds, by name."""
    seen = set() if seen is None else seen
    if not isinstance(content, dict) or len(levels) > DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    yield levels, {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    for key, value in content.items():
        yield from tensor_dicts(value, (*levels, str(key)), seen)


def groups(names):
    """Return the groups of names with a common prefix, as lists, the largest groups first.

    Layers of a Sequential, which have numbers, stay together, and are a group without what is beside them too.
    """
    found = {}
    for name in names:
        parts = name.split(".")
        for end in range(len(parts)):
            prefix = [part for part in parts[:end] if part not in WRAPPERS]
            if prefix and prefix[-1].isdigit():
                continue
            for numbered in (False, True)[: 1 + parts[end].isdigit()]:
                found.setdefault((end, tuple(parts[:end]), numbered), []).append(name)
    return [found[key] for key in sorted(found)]


def match(tensors, shapes):
    """Return the name in `tensors` for each name in `shapes`, as a dict; None unless they are the same layers."""
    if len(tensors) != len(shapes):
        return None
    names, theirs = {}, modules(tensors)
    for own, own_leaves in modules(shapes).items():
        fitting = [
            module
            for module, leaves in theirs.items()
            if leaves.keys() == own_leaves.keys()
            and all(is_weight(tensors[leaves[leaf]]) for leaf in leaves)
            and all(fits(tensors[leaves[leaf]].shape, shapes[name]) for leaf, name in own_leaves.items())
        ]
        if not fitting:
            return None
        leaves = theirs.pop(max(fitting, key=lambda module: f".{module}".endswith(f".{own}")))
        names |= {name: leaves[leaf] for leaf, name in own_leaves.items()}
    free = {tensors[names[name]].shape[0] for name, shape in shapes.items() if None in shape}
    return names if len(free) < 2 else None


def modules(names):
    """Return the names of tensors by module and kind: {"0": {"weight": "0.weight", "bias": "0.bias"}}."""
    found = {}
    for name in names:
        module, _, kind = name.rpartition(".")
        found.setdefault(module, {})[kind] = name
    return found


def fits(shape, expected):
    """Return whether a shape is the expected one, in which None is any size."""
    return len(shape) == len(expected) and all(
        size in (None, given) for size, given in zip(expected, shape, strict=True)
    )


def is_weight(value):
    """Return whether a value is a plain tensor: dense, not quantised, with its data in the file."""
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return plain and not value.is_quantized and not value.is_meta


def shapes_of(weights):
    """Return the shape of each tensor of a state_dict, as tuples."""
    return {key: tuple(value.shape) for key, value in weights.items()}


def any_classes(shapes):
    """Return the shapes of a network whose last layer, a linear one, may have any number of outputs."""
    return shapes | {name: (None, *shapes[name][1:]) for name in list(shapes)[-2:]}


def diagnose(content, tensors):
    """Return in a few words what a file holds instead of plain tensors; `tensors` are those in it, by name."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    others = [f"{key} ({type(value).__name__})" for key, value in (tensors or content).items() if not is_weight(value)]
    return f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}" or "nothing"


def list_shapes(shapes, most=16):
    """Return names and shapes as `0.weight 8x3x5x5, ...`, `most` of them at most, or `nothing`; `n` is any size."""
    texts = [f"{key} {'x'.join(str(size or 'n') for size in shape) or 'scalar'}" for key, shape in shapes.items()]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "") or "nothing"

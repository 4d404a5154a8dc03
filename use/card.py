"""The model card: a README with the metadata that the Hugging Face Hub reads, from a network's record."""

import json
import re

from common.metrics import accuracy_interval
from use.ensemble import CROP_SIZE
from use.output import template
from use.trained import NETWORKS, describe_classes, trained_on

from torch import nn

FEW = 50  # the card warns of classes with fewer training images
METRICS = ("parameters", "test_loss", "test_accuracy", "test_accuracy_interval", "test_count", "majority_accuracy")
SETTINGS = ("epochs", "batch_size", "lr", "precision", "symmetries", "seed")
ABOUT = ("author", "license", "survey", "pixel_scale")  # options of export.py, which are not in records


def as_code(module, indent=""):
    """Return the Python expression that creates a network of nn.Sequential and torch's layers."""
    if not isinstance(module, nn.Sequential):
        return f"nn.{module!r}"  # Conv2d(3, 8, kernel_size=(5, 5), stride=(1, 1))
    layers = "".join(f"{indent}    {as_code(each, indent + '    ')},\n" for each in module)
    return f"nn.Sequential(\n{layers}{indent})"


def escaped(value):
    """Return a value as Markdown on one line, without markup."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(str(value).split()))


def model_card(name, record, **about):
    """Return the card of the network `name` as Markdown; about: values of ABOUT, omitted unless given.

    Raises ValueError if the record lacks a metric.
    """
    missing = [key for key in METRICS if key not in record]
    if missing:
        raise ValueError(f"the record of {name} lacks {', '.join(missing)}: rerun {name}.py")
    names, counts = record["class_names"], record.get("train_counts", [])
    start = (record["image_size"] - CROP_SIZE) // 2  # of the central crop
    return template("card.md.j2", yaml=json.dumps, text=escaped).render(  # a JSON string is valid YAML
        name=name,
        record=record,
        rows=class_rows(record) if "recall" in record else [],
        data=trained_on(record),
        classes=describe_classes(record),
        size=record["image_size"],
        crop=CROP_SIZE,
        start=start,
        stop=start + CROP_SIZE,
        network=as_code(NETWORKS[name](len(names))),
        settings={key: record["args"][key] for key in SETTINGS if key in record.get("args", {})},
        rare=[class_name for class_name, count in zip(names, counts, strict=False) if 0 < count < FEW],
        few=FEW,
        **about,
    )


def class_rows(record):
    """Return the cells of each class as strings: name, training images, test images and recall."""
    rows, keys = [], ("class_names", "train_counts", "test_counts", "recall")
    for name, train_count, count, recall in zip(*map(record.get, keys), strict=True):
        low, high = accuracy_interval(round(count * recall), count) if count else (0, 1)
        share = f"{recall:.1%} ({low:.1%} to {high:.1%})" if count else "–"
        rows.append([escaped(name), f"{train_count:,}", f"{count:,}", share])
    return rows

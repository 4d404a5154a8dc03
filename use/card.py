"""The model card: a README with the header that the Hugging Face Hub reads, from a network's record alone."""

import json
import re

from common.metrics import accuracy_interval
from use.ensemble import CROP_SIZE
from use.output import template
from use.trained import NETWORKS, describe_classes, trained_on

from torch import nn

KINDS = {
    "q2_fcn": ("Fully connected network for galaxies", "A fully connected network"),
    "q3_cnn": ("Convolutional network for galaxies", "A convolutional network"),
    "q5_transfer": ("Transferred network for galaxies", "A convolutional network with a frozen, transferred backbone"),
}
FEW = 50  # training images of a class, below which the card warns
METRICS = ("parameters", "test_loss", "test_accuracy", "test_accuracy_interval", "test_count", "majority_accuracy")
SETTINGS = ("epochs", "batch_size", "lr", "precision", "symmetries", "seed")
ABOUT = ("author", "license", "survey", "pixel_scale")  # what no record tells: options of export.py
GALAXY10 = (
    "Galaxy10 is by Henry Leung and Jo Bovy, <https://zenodo.org/records/10844811> (SDSS) and "
    "<https://zenodo.org/records/10845026> (DECaLS); its labels are of Galaxy Zoo "
    "(Lintott et al. 2008, MNRAS 389, 1179)."
)
EFIGI = "The images are of the EFIGI catalogue: Baillard et al. 2011, A&A 532, A74."


def as_code(module, indent=""):
    """Return the Python expression that makes a network of nn.Sequential and of torch's own layers."""
    if not isinstance(module, nn.Sequential):
        return f"nn.{module!r}"  # Conv2d(3, 8, kernel_size=(5, 5), stride=(1, 1))
    layers = "".join(f"{indent}    {as_code(each, indent + '    ')},\n" for each in module)
    return f"nn.Sequential(\n{layers}{indent})"


def as_text(value):
    """Return a value as Markdown on one line, in which no character of it is markup."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(str(value).split()))


def model_card(name, record, **about):
    """Return the card of the network `name` as Markdown; about: values of ABOUT, those that are not given left out.

    Raises ValueError when the record lacks a metric.
    """
    missing = [key for key in METRICS if key not in record]
    if missing:
        raise ValueError(f"the record of {name} lacks {', '.join(missing)}: rerun {name}.py")
    title, kind = KINDS[name]
    source, names, size = record["source"], record["class_names"], record["image_size"]
    counts = record.get("train_counts")
    start = (size - CROP_SIZE) // 2  # of the central crop
    galaxy10 = source.startswith("galaxy10")
    return template("card.md.j2", yaml=json.dumps, text=as_text).render(  # a JSON string is one of YAML
        name=name,
        title=title,
        kind=kind,
        record=record,
        rows=class_rows(record) if "recall" in record else [],
        galaxy10=galaxy10,
        synthetic=source == "synthetic",
        data=trained_on(record),
        classes=describe_classes(record),
        size=size,
        crop=CROP_SIZE,
        start=start,
        stop=start + CROP_SIZE,
        network=as_code(NETWORKS[name](len(names))),
        settings={key: record["args"][key] for key in SETTINGS if key in record.get("args", {})},
        rare=[class_name for class_name, count in zip(names, counts or [], strict=bool(counts)) if 0 < count < FEW],
        few=FEW,
        citation=EFIGI if "efigi" in source else GALAXY10 if galaxy10 else "",
        **dict.fromkeys(ABOUT) | about,
    )


def class_rows(record):
    """Return for each class its name, training images, test images and recall, as texts."""
    rows, keys = [], ("class_names", "train_counts", "test_counts", "recall")
    for name, train_count, count, recall in zip(*map(record.get, keys), strict=True):
        low, high = accuracy_interval(round(count * recall), count) if count else (0, 1)
        share = f"{recall:.1%} ({low:.1%} to {high:.1%})" if count else "–"
        rows.append([as_text(name), f"{train_count:,}", f"{count:,}", share])
    return rows

"""The model card: a README with the header that the Hugging Face Hub reads, from a network's record alone."""

import json
from pathlib import Path

from use.trained import CROP_SIZE, trained_on

import jinja2

KINDS = {
    "q2_fcn": ("Fully connected network for galaxies", "A fully connected network"),
    "q3_cnn": ("Convolutional network for galaxies", "A convolutional network"),
    "q5_transfer": ("Transferred network for galaxies", "A convolutional network with a frozen, transferred backbone"),
}
FEW = 50  # training images of a class, below which the card warns
NEEDED = ("parameters", "test_loss", "test_accuracy", "test_accuracy_interval", "test_count", "majority_accuracy")
SETTINGS = ("epochs", "batch_size", "lr", "precision", "seed")
GALAXY10 = (
    "Galaxy10 is by Henry Leung and Jo Bovy, <https://zenodo.org/records/10844811> (SDSS) and "
    "<https://zenodo.org/records/10845026> (DECaLS); its labels are of Galaxy Zoo "
    "(Lintott et al. 2008, MNRAS 389, 1179)."
)
EFIGI = "The images are of the EFIGI catalogue: Baillard et al. 2011, A&A 532, A74."
EXAMPLE = """\
import json
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
image = Image.open("galaxy.png").convert("RGB").resize(({size}, {size}), Image.Resampling.BOX)
crops = np.asarray(image)[None, {start}:{stop}, {start}:{stop}]  # the centre, uint8 (1, {crop}, {crop}, 3)
logits, probabilities = session.run(["logits", "probabilities"], {{"crops": crops}})
print(*(f"{{p:6.1%}}  {{name}}" for p, name in zip(probabilities[0], names)), sep="\\n")
"""


def onnx_example(size):
    """Return ten lines of Python that use model.onnx without torch; size: of the training images, in pixels."""
    start = (size - CROP_SIZE) // 2
    return EXAMPLE.format(size=size, crop=CROP_SIZE, start=start, stop=start + CROP_SIZE)


def model_card(name, record, license):
    """Return the card of the network `name` as Markdown. Raises ValueError when the record lacks a metric."""
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise ValueError(f"the record of {name} lacks {', '.join(missing)}: rerun {name}.py")
    title, kind = KINDS[name]
    source, counts = record["source"], record.get("train_counts")
    citation = EFIGI if "efigi" in source else GALAXY10 if source.startswith("galaxy10") else ""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"yaml": json.dumps, "zip": zip}  # a JSON string is one of YAML
    return environment.get_template("card.md.j2").render(
        name=name,
        title=title,
        kind=kind,
        record=record,
        counts=counts,
        synthetic=source == "synthetic",
        data=trained_on(record),
        crop=CROP_SIZE,
        example=onnx_example(record["image_size"]),
        settings={key: record["args"][key] for key in SETTINGS if key in record.get("args", {})},
        rare=[
            class_name
            for class_name, count in zip(record["class_names"], counts or [], strict=bool(counts))
            if count < FEW
        ],
        few=FEW,
        license=license,
        citation=citation,
    )

"""Create a web page, for the classroom, that runs the trained CNN and FCN in the browser.

Reads q1_data.pt, q3_cnn.pt and, if it exists, q2_fcn.pt, with their .json. Writes playground.html to --out: one file
with weights, test galaxies and code, which runs offline.
"""

import base64
import json
from pathlib import Path

from common import cli
from common.data import load_data
from common.sentences import interval
from common.storage.artifacts import save_text
from common.storage.checkpoint import check_origin, weights_hash
from use.ensemble import CROP_SIZE, CropEnsemble
from use.output import template
from use.trained import describe_classes, load_network, training_images

import numpy as np
import torch
from markupsafe import Markup

EXAMPLES = ("python -m use.playground", "python -m use.playground --out smoke --galaxies 2")
LARGE = 200_000  # tensors with more weights, which only the FCN has, are stored with 16 bits per weight
CONTROLS = (("turn", "turn", 0, 360, 0), ("light", "brightness", 10, 200, 100), ("noise", "noise", 0, 60, 0))


def encoded(array):
    """Return an array's bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def encode_weights(network):
    """Return a state_dict for the page: shape and float32 values of each tensor, in base64.

    Large matrices are stored as int16 with one factor per row, which halves their size and changes logits by about
    1e-4.
    """
    tensors = {}
    for name, weight in network.state_dict().items():
        weight = weight.numpy().astype("<f4")
        tensors[name] = {"shape": weight.shape, "values": encoded(weight)}
        if weight.size > LARGE:
            scales = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-30) / 32767
            tensors[name]["values"] = encoded(np.round(weight / scales).astype("<i2"))
            tensors[name]["scales"] = encoded(scales.astype("<f4"))
    return tensors


def choose_galaxies(labels, predictions, number):
    """Return the indices of at most `number` test images per class, half of them classified correctly if possible.

    labels, predictions: int64 (n,).
    """
    chosen = []
    for label in labels.unique():
        of_class = labels == label
        correct, wrong = (
            (of_class & each).nonzero().flatten().tolist() for each in (predictions == labels, predictions != labels)
        )
        first = correct[: max(number - number // 2, number - len(wrong))]
        chosen += first + wrong[: number - len(first)]
    return chosen


def page(data, networks, records, number):
    """Return the page; data: Q1's dict; networks, records: of `cnn` and perhaps `fcn`; number: galaxies per class."""
    record, size = records["cnn"], records["cnn"]["image_size"]
    images, labels = data["main_test_images"], data["main_test_labels"]
    ensemble = CropEnsemble(networks["cnn"], record["mean"], record["std"], size, crops=1)
    predictions = torch.cat([ensemble(batch)[0].argmax(1) for batch in images.split(500)])
    galaxies = [
        {
            "pixels": encoded(images[index].permute(1, 2, 0).numpy()),
            "label": labels[index].item(),
            "correct": bool(predictions[index] == labels[index]),
        }
        for index in choose_galaxies(labels, predictions, number)
    ]
    payload = {"size": size, "crop": CROP_SIZE} | {key: record[key] for key in ("mean", "std", "class_names")}
    payload |= {name: encode_weights(networks[name]) if name in networks else None for name in ("cnn", "fcn")}
    room = size - CROP_SIZE
    return template("playground.html.j2").render(
        size=size,
        crop=CROP_SIZE,
        synthetic=data["source"] == "synthetic",
        record=record,
        data=training_images(record),
        fcn="fcn" in networks,
        accuracy=describe_accuracies(records),
        classes=describe_classes(record),
        controls=(("left", "left", 0, room, room // 2), ("top", "top", 0, room, room // 2), *CONTROLS),
        payload=Markup(json.dumps(payload | {"galaxies": galaxies}).replace("<", "\\u003c")),
        script=Markup((Path(__file__).parent / "playground.js").read_text(encoding="utf-8")),
    )


def describe_accuracies(records):
    """Return a sentence with the test accuracies of the networks, by name."""
    accuracies = [
        f"{name.upper()} {record['test_accuracy']:.1%} (95% interval {interval(record['test_accuracy_interval'])})"
        for name, record in records.items()
    ]
    return f"Accuracy on {records['cnn']['test_count']:,} test images: {', '.join(accuracies)}."


def main():
    args = get_args()
    out = Path(args.out)
    data, networks, records = load_data(out), {}, {}
    for name, file in (("cnn", "q3_cnn.pt"), ("fcn", "q2_fcn.pt")):
        if name == "cnn" or (out / file).is_file():
            networks[name], records[name], _ = load_network(out / file, remedy="point --out at its folder")
            check_origin(out / file, weights_hash(networks[name].state_dict()), data, force=False)
    text = page(data, networks, records, args.galaxies)
    save_text(text, out / "playground.html")
    print(f"{out / 'playground.html'}: {len(text.encode()):,} bytes")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    help = "test galaxies per class, half of them classified correctly if possible"
    parser.add_argument("--galaxies", type=cli.positive_int, default=4, metavar="N", help=help)
    cli.add_out(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)

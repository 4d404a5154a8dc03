"""Export a trained network for others, as a folder in the form that the Hugging Face Hub takes.

Reads a .pt file of q2_fcn.py, q3_cnn.py or q5_transfer.py and the .json beside it. Writes, into the folder --to,
model.safetensors (the weights), model.onnx (from uint8 crops to logits and probabilities, for onnxruntime),
config.json (classes, sizes, mean, std, data, settings, metrics) and README.md (the model card, with ten lines that use
model.onnx without torch). Needs requirements-extra.txt. q5_transfer.py --backbone and predict.py --model take the
folder.
"""

from importlib.util import find_spec
from pathlib import Path

from common import cli
from common.storage.artifacts import write_json
from common.storage.atomic import atomic_write, refuse_overlap
from common.storage.checkpoint import cpu_state_dict
from use.card import model_card
from use.onnx_file import write_onnx
from use.trained import CROP_SIZE, files_of, load_network

EXAMPLES = (
    "python export.py --model artifacts/q3_cnn.pt --to artifacts/model",
    "python predict.py galaxy.jpg --model artifacts/model",
    "python q5_transfer.py --backbone artifacts/model",
)
PACKAGES = ("onnx", "onnxscript", "safetensors")
CONFIG = (
    *(
        "class_names",
        "other_class_names",
        "image_size",
        "mean",
        "std",
        "source",
        "fingerprint",
        "weights_sha256",
        "appearance",
    ),
    *("train_counts", "args", "parameters", "test_loss", "test_accuracy", "test_accuracy_interval", "test_count"),
    *("majority_accuracy", "temperature", "calibration_images"),
)


def check_packages():
    """Raise ValueError that names the packages that are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ValueError(
            f"export.py needs {', '.join(missing)}, which {verb} not installed: pip install {' '.join(missing)}"
        )


def main():
    args = get_args()
    check_packages()
    files = ("model.safetensors", "model.onnx", "README.md", "config.json")
    refuse_overlap({f"--to: {file}": Path(args.to) / file for file in files}, files_of(args.model))
    from safetensors.torch import save

    network, record, name = load_network(args.model)
    config = {"network": name, "crop_size": CROP_SIZE} | {key: record[key] for key in CONFIG if key in record}
    config["args"] = {key: value for key, value in config.get("args", {}).items() if key not in ("out", "backbone")}
    card = model_card(name, record, args.license)
    with atomic_write(*(Path(args.to) / file for file in files)) as (safetensors, onnx, readme, config_json):
        safetensors.write_bytes(save(cpu_state_dict(network), metadata={"format": "pt", "network": name}))
        write_onnx(network, config, onnx)
        readme.write_text(card, encoding="utf-8")
        write_json(config, config_json)
    print(f"{args.to}: {', '.join(files)}; {name}, test accuracy {record['test_accuracy']:.2%}, {record['source']}")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--model", type=cli.path, default="artifacts/q3_cnn.pt", metavar="PT", help="the network to export")
    add("--to", type=cli.path, default="artifacts/model", metavar="DIR", help="folder to write")
    help = "licence of the weights, as the Hub abbreviates it: mit, cc-by-4.0, ..."
    add("--license", default="unknown", metavar="NAME", help=help)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)

"""Export a trained network as a folder for the Hugging Face Hub.

Reads a .pt file of q2_fcn.py, q3_cnn.py or q5_transfer.py and the .json next to it. Writes to the folder --to:
model.safetensors (the weights), model.onnx (uint8 crops to logits, probabilities and features, for onnxruntime),
config.json (classes, sizes, mean, std, data, settings, metrics) and README.md (the model card, with code that uses
model.onnx without torch, and model.safetensors without this project). The folder can be passed to q5_transfer.py
--backbone and predict.py --model. Needs requirements-extra.txt.
"""

import shlex
from pathlib import Path

from common import cli
from common.storage.artifacts import write_json
from common.storage.atomic import atomic_write, refuse_overlap
from common.storage.checkpoint import cpu_state_dict
from common.storage.packages import require
from use.card import ABOUT, METRICS, model_card
from use.ensemble import CROP_SIZE
from use.onnx_file import write_onnx
from use.trained import NEEDED, files_of, load_network

EXAMPLES = (
    "python export.py --model artifacts/q3_cnn.pt --to artifacts/model",
    "python export.py --license cc-by-4.0 --author 'A. Name' --survey SDSS --pixel-scale 0.396",
    "python predict.py galaxy.jpg --model artifacts/model",
    "python q5_transfer.py --backbone artifacts/model",
)
CONFIG = (*NEEDED, *METRICS, *ABOUT, "other_class_names", "fingerprint", "weights_sha256", "appearance", "args")
CONFIG += ("train_counts", "test_counts", "recall", "train_hashes")  # values that config.json copies from the record


def main():
    args = get_args()
    require("export.py", "onnx", "onnxscript", "safetensors")
    files = ("model.safetensors", "model.onnx", "README.md", "config.json")
    refuse_overlap({f"--to: {file}": Path(args.to) / file for file in files}, files_of(args.model))
    from safetensors.torch import save

    network, record, name = load_network(args.model)
    config = {"network": name, "crop_size": CROP_SIZE} | {key: record[key] for key in CONFIG if key in record}
    config["args"] = {key: value for key, value in config.get("args", {}).items() if key not in ("out", "backbone")}
    config |= {key: value for key in ABOUT if (value := getattr(args, key))}
    card = model_card(name, record, **{key: config[key] for key in ABOUT if key in config})
    with atomic_write(*(Path(args.to) / file for file in files)) as (safetensors, onnx, readme, config_json):
        safetensors.write_bytes(save(cpu_state_dict(network), metadata={"format": "pt", "network": name}))
        write_onnx(network, config, onnx)
        readme.write_text(card, encoding="utf-8")
        write_json(config, config_json)
    print(f"{args.to}: {', '.join(files)}; {name}, test accuracy {record['test_accuracy']:.2%}, {record['source']}")
    print(f"To upload it: hf upload USER/NAME {shlex.quote(str(args.to))}")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--model", type=cli.path, default="artifacts/q3_cnn.pt", metavar="PT", help="network to export")
    add("--to", type=cli.path, default="artifacts/model", metavar="DIR", help="folder to write")
    add("--author", metavar="NAME", help="author of the network, for the model card")
    help = "licence of the weights, an identifier of the Hub: mit, cc-by-4.0, ..."
    add("--license", metavar="NAME", help=help)
    add("--survey", metavar="NAME", help="survey of the training images, such as SDSS")
    help = "pixel scale of the training images, in arcsec per pixel"
    add("--pixel-scale", type=cli.positive_float, metavar="ARCSEC", help=help)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)

"""Does a larger encoder, pretrained on other images and frozen, beat the assignment's CNN? (Optional: needs timm.)

The encoder sees whole images, at the resolution of the file that q1_data.py has read; the networks of the assignment
see crops. One trained on the same survey may have seen the test images: the study says so of Zoobot's. On the main
classes a linear head on its features is compared with the CNN as `OMP_NUM_THREADS=1 make all SEED=s` trains it, on the
two transfer classes with the same kind of head on the frozen backbone of Q3. Heads are scikit-learn's logistic
regression, their regularisation by cross-validation.

Reads q1_data.pt and q3_cnn.pt under --out. Writes, in its folder studies/, encoder.json, encoder.png, the features and
a file per run.
"""

from pathlib import Path

from common import cli, plots
from common.data import load_data
from common.galaxies.split import task_names
from common.hardware.device import choose_device
from common.storage.artifacts import load_tensors
from common.storage.checkpoint import load_backbone, weights_hash
from common.train import predict
from q3_cnn import make_backbone
from studies.methods.encoders import encoder_features
from studies.methods.heads import head_accuracy
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, resplit, save_study, select
from studies.methods.statistics import judged, mean_interval, paired_difference, percent, points
from studies.methods.training import COLOURS, main_task, seed_network
from studies.transfer import backbone_features, sample, trained_backbone

import matplotlib.pyplot as plt
import numpy as np

EXAMPLES = (
    "python -m studies.encoder --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano  # trained on Galaxy Zoo",
    "python -m studies.encoder --encoder tf_efficientnet_lite0 --encoder-weights tf_efficientnet_lite0.pth",
    "python -m studies.encoder --encoder local-dir:zoobot  # a folder with its config.json and model.safetensors",
)
TASKS = {"main": "CNN", "transfer": "frozen backbone of Q3"}  # and what the encoder is compared with


def measure(out, device, seed, task, epochs, features, backbone):
    """Return the test accuracies of a linear head on the encoder's features, and of what it is compared with.

    features: the name of their file; backbone: the hash of the weights of Q3's.
    """
    # The CNN is trained with the mean and std of its own split, Q3's backbone was with those of Q3's.
    data = resplit(load_data(out), seed) if task == "main" else sample(out, seed)
    encoded = load_tensors(Path(out) / "studies" / features, made_by="studies.encoder")["features"]
    pairs = [(encoded[data[f"{task}_{each}_indices"]], data[f"{task}_{each}_labels"]) for each in ("train", "test")]
    result = {"encoder": head_accuracy(*pairs, seed)}
    if task == "main":
        cnn = seed_network("cnn", data, out, seed, epochs, device)
        logits, labels = predict(cnn, main_task(data, device).test_loader)
        result["other"] = (logits.argmax(1) == labels).double().mean().item()
    else:
        result["other"] = head_accuracy(*backbone_features(trained_backbone(out, backbone), data, task), seed)
    return result


def summarise(rows):
    """Return for each task the accuracies of encoder and other with intervals, each seed's, and their difference."""
    tasks = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        values = {name: [row[name] for row in select(rows, task=task)] for name in ("encoder", "other")}
        tasks[task] = {
            "seeds": values,
            "accuracy": {name: mean_interval(each) for name, each in values.items()},
            "difference": paired_difference(values["encoder"], values["other"]),
        }
    return tasks


def describe(tasks, name):
    """Return the answer in a sentence."""
    parts = [f"{judged(found['difference'])}, over the {TASKS[task]} on the {task} classes"
             for task, found in tasks.items()]  # fmt: skip
    return f"{name}, frozen, gains {' and '.join(parts)}."


def tables(record):
    """Return the table of docs/studies.md."""
    rows = [
        (task, percent(found["accuracy"]["encoder"]), TASKS[task], percent(found["accuracy"]["other"]),
         points(found["difference"]))
        for task, found in record["tasks"].items()
    ]  # fmt: skip
    return table(("classes", "encoder, frozen", "compared with", "accuracy", "difference"), rows)


def encoder_figure(tasks, name, source):
    """Return a figure of the accuracies on both tasks: a point per seed, the mean and its interval."""
    figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
    rows = [(task, which) for task in tasks for which in ("encoder", "other")]
    for row, (task, which) in enumerate(rows):
        found, colour = tasks[task]["accuracy"][which], "black" if which == "encoder" else COLOURS["cnn"]
        seeds = 100 * np.array(tasks[task]["seeds"][which])
        ax.plot(seeds, np.full(len(seeds), row), "o", color=colour, alpha=0.35)
        ax.plot([100 * found["low"], 100 * found["high"]], [row, row], color=colour, linewidth=2)
        ax.plot(100 * found["mean"], row, "|", color=colour, markersize=14, markeredgewidth=2)
    labels = [f"{task}: {name.rpartition('/')[2] if which == 'encoder' else TASKS[task]}" for task, which in rows]
    ax.set_yticks(range(len(rows)), labels)
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy (%): a point per seed; the line is the 95% interval of their mean")
    ax.grid(alpha=0.25, axis="x")
    figure.suptitle(plots.titled("A larger encoder, frozen", source))
    return figure


def main():
    args = get_args()
    data, trained, device = load_data(args.out), make_backbone(), choose_device(args.device)
    load_backbone(trained, Path(args.out) / "q3_cnn.pt", data, args.force)
    options = args.encoder, args.encoder_weights, args.encoder_size
    features, made_from, notes = encoder_features(*options, data, args.out, device)
    settings = {"epochs": args.epochs, "features": features, "backbone": weights_hash(trained.state_dict())}
    runs = [{"seed": seed, "task": task} for task, names in task_names(data).items() if names for seed in args.seeds]
    tasks = summarise(collect("encoder", measure, runs, args, data, **settings))
    figure = encoder_figure(tasks, args.encoder, data["source"])
    save_study("encoder", args, data, figure, describe(tasks, args.encoder), notes, encoder=made_from, tasks=tasks)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--encoder", required=True, metavar="NAME", help="a model of timm, or hf_hub:OWNER/MODEL, local-dir:FOLDER")
    add("--encoder-weights", type=cli.path, metavar="PTH", help="its state_dict, in place of those that timm downloads")
    add("--encoder-size", type=cli.positive_int, metavar="PIXELS", help="side of its input (default: its own)")
    add_study_options(parser)
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")

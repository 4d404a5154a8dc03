"""Does a larger encoder, pretrained on other images and frozen, beat the assignment's CNN? (Optional: needs timm.)

The encoder sees whole images, at the resolution of the file that q1_data.py has read; the assignment's networks see
crops. An encoder trained on the same survey may have seen the test images; the study says so for Zoobot's. On the main
classes, a linear head on the encoder's features is compared with the CNN of `OMP_NUM_THREADS=1 make all SEED=s`; on the
two transfer classes, with the same kind of head on Q3's frozen backbone. The head is scikit-learn's logistic regression
with regularisation by cross-validation.

Reads q1_data.pt and q3_cnn.pt under --out. Writes encoder.json, encoder.png, the features and a file per run into
{out}/studies.
"""

from pathlib import Path

from common import cli, plots
from common.data import load_data
from common.galaxies.split import task_names
from common.hardware.device import choose_device
from common.storage.artifacts import load_tensors
from studies.methods.encoders import encoder_features
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_seeds, judged, mean_interval, points, share_text, table_lines
from studies.methods.training import COLOURS, accuracy_of, head_accuracy, make_loader, seed_network
from studies.transfer import backbone_features, sample, trained_backbone

import matplotlib.pyplot as plt
import numpy as np

TASKS = {"main": "CNN", "transfer": "frozen backbone of Q3"}  # with what the encoder is compared


def measure(out, device, seed, task, epochs, features, backbone):
    """Return the test accuracies of a linear head on the encoder's features, and of the network it is compared with.

    features: name of the file; backbone: hash of the weights of Q3's.
    """
    # The CNN is trained with the mean and std of this split, Q3's backbone was trained with those of Q3's split.
    data = resplit(load_data(out), seed) if task == "main" else sample(out, seed)
    encoded = load_tensors(Path(out) / "studies" / features, made_by="studies.encoder")["features"]
    pairs = [(encoded[data[f"{task}_{each}_indices"]], data[f"{task}_{each}_labels"]) for each in ("train", "test")]
    if task == "main":
        cnn = seed_network("cnn", data, out, seed, epochs, device)
        other = accuracy_of(cnn, make_loader(data, "main_test", device))
    else:
        trained, _ = trained_backbone(out, expected_hash=backbone)
        other = head_accuracy(*backbone_features(trained, data, task), seed)
    return {"encoder": head_accuracy(*pairs, seed), "other": other}


def summarise(rows):
    """Return, for each task, the accuracies of encoder and other by seed, with intervals, and their difference."""
    tasks = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        values = {name: [row[name] for row in select(rows, task=task)] for name in ("encoder", "other")}
        tasks[task] = {
            "seeds": values,
            "accuracy": {name: mean_interval(each) for name, each in values.items()},
            "difference": mean_interval(np.subtract(values["encoder"], values["other"])),
        }
    return tasks


def describe(tasks, name):
    """Return the answer, a sentence."""
    gains = {task: judged(found["difference"]) for task, found in tasks.items()}
    parts = [f"{gain}, over the {TASKS[task]} on the {task} classes" for task, gain in gains.items()]
    return f"{name}, frozen, gains {' and '.join(parts)}."


def tables(record):
    """Return the table of docs/studies.md."""
    rows = []
    for task, found in record["tasks"].items():
        encoder, other = (share_text(found["accuracy"][which]) for which in ("encoder", "other"))
        rows.append((task, encoder, TASKS[task], other, points(found["difference"])))
    return table_lines(("classes", "encoder, frozen", "compared with", "accuracy", "difference"), rows)


def encoder_figure(tasks, name, source):
    """Return a figure of the accuracies on both tasks: a point per seed, the mean and its interval."""
    figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
    rows = [(task, which) for task in tasks for which in ("encoder", "other")]
    for row, (task, which) in enumerate(rows):
        colour = "black" if which == "encoder" else COLOURS["cnn"]
        draw_seeds(ax, row, tasks[task]["seeds"][which], tasks[task]["accuracy"][which], colour)
    labels = [f"{task}: {name.rpartition('/')[2] if which == 'encoder' else TASKS[task]}" for task, which in rows]
    ax.set_yticks(range(len(rows)), labels)
    ax.invert_yaxis()
    ax.grid(alpha=0.25, axis="x")
    figure.suptitle(plots.titled("A larger encoder, frozen", source))
    return figure


def main():
    args = get_args()
    data, device = load_data(args.out), choose_device(args.device)
    _, backbone = trained_backbone(args.out, args.force)
    options = args.encoder, args.encoder_weights, args.encoder_size
    features, made_from, notes = encoder_features(*options, data, args.out, device)
    settings = {"epochs": args.epochs, "features": features, "backbone": backbone}
    runs = [{"seed": seed, "task": task} for task, names in task_names(data).items() if names for seed in args.seeds]
    tasks = summarise(collect(__file__, measure, runs, args, data, **settings))
    figure = encoder_figure(tasks, args.encoder, data["source"])
    save_study(__file__, args, data, figure, [describe(tasks, args.encoder), *notes], encoder=made_from, tasks=tasks)


def get_args(argv=None):
    parser = study_parser(
        __doc__,
        "python -m studies.encoder --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano  # trained on Galaxy Zoo",
        "python -m studies.encoder --encoder local-dir:zoobot  # a folder with its config.json and model.safetensors",
    )
    add = parser.add_argument
    add("--encoder", required=True, metavar="NAME", help="timm model, or hf_hub:OWNER/MODEL or local-dir:FOLDER")
    add("--encoder-weights", type=cli.path, metavar="PTH", help="its state_dict (default: timm downloads it)")
    add("--encoder-size", type=cli.positive_int, metavar="PIXELS", help="side of its input (default: the model's)")
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")

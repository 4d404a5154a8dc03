"""Does a larger encoder, pretrained on other images and frozen, beat the assignment's CNN? (Optional: needs timm.)

The encoder sees whole images, at the resolution of the file that q1_data.py has read; the networks of the assignment
see crops. One trained on the same survey may have seen the test images: the study says so of Zoobot's. On the main
classes a linear head on its features is compared with the CNN as `OMP_NUM_THREADS=1 make all SEED=s` trains it, on the
two transfer classes with the same kind of head on the frozen backbone of Q3. Heads are scikit-learn's logistic
regression, their regularisation by cross-validation.

Reads q1_data.pt and q3_cnn.pt under --out. Writes, in its folder studies/, encoder.json, encoder.png, the features and
a file per run.
"""

import hashlib
from pathlib import Path

from common import cli, plots
from common.data import load_data
from common.galaxies.download import PUBLISHED
from common.galaxies.facts import SUBSETS
from common.galaxies.hdf5 import dataset, open_hdf5, reading, resize, row_blocks
from common.galaxies.split import task_names
from common.hardware.device import choose_device
from common.storage.artifacts import load_json, load_tensors, save_tensors
from common.storage.checkpoint import load_backbone, load_weights, weights_hash
from common.train import predict
from q3_cnn import make_backbone
from studies.methods.heads import head_accuracy
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, save_study, select
from studies.methods.statistics import judged, mean_interval, paired_difference, percent, points
from studies.methods.training import COLOURS, main_task, seed_network
from studies.transfer import backbone_features, sample

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

EXAMPLES = (
    "python -m studies.encoder --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano  # trained on Galaxy Zoo",
    "python -m studies.encoder --encoder tf_efficientnet_lite0 --encoder-weights tf_efficientnet_lite0.pth",
    "python -m studies.encoder --encoder local-dir:zoobot  # a folder with its config.json and model.safetensors",
)
BATCH_SIZE = 32
SEEN = (
    "Zoobot was trained on Galaxy Zoo's pictures of SDSS and DECaLS: it has seen galaxies of Galaxy10, test images too."
)
TASKS = {"main": "CNN", "transfer": "frozen backbone of Q3"}  # and what the encoder is compared with


def load_encoder(name, weights=None):
    """Return timm's model `name` without its classifier, frozen, and its data config: input_size, mean, std and more.

    name: as timm.create_model takes it, hf_hub:OWNER/MODEL and local-dir:FOLDER included; weights: a state_dict file of
    it. Nothing is downloaded with `weights`, or when the Hub's cache has the model. Raises ValueError when timm is
    missing, has no such model or cannot get its weights, and as `load_weights` does.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(
            f"--encoder {name} needs the package timm, which is not installed: pip install -r requirements-extra.txt"
        ) from None
    source, _, repository = name.partition(":")
    hub = source.lower().replace("_", "-") == "hf-hub"
    by_folder = "download its config.json and weights, and give their folder as --encoder local-dir:FOLDER"
    architecture = name
    if hub and weights is not None:  # timm would ask the Hub for the configuration
        owner, _, architecture = repository.rpartition("/")
        if owner != "timm" or not timm.is_model(architecture):
            raise ValueError(f"--encoder {name} --encoder-weights: only the Hub knows its architecture: {by_folder}")
    try:
        if weights is None and source != "local-dir":
            known = None if hub else timm.models.get_pretrained_cfg(architecture)
            folder = cached_folder(repository if hub else known.hf_hub_id if known else None)
            architecture = f"local-dir:{folder}" if folder else architecture
        encoder = timm.create_model(architecture, pretrained=weights is None, num_classes=0)
    except Exception as error:  # timm and huggingface_hub raise a dozen types
        hint = "check the name and the network, or name a file with --encoder-weights"
        hint = f"check the name and the network, or {by_folder}" if hub else hint
        hint = "check the name" if weights is not None or source == "local-dir" else hint
        raise ValueError(f"--encoder {name}: timm cannot load it ({error}): {hint}") from None
    if weights is not None:
        load_encoder_weights(encoder, weights, name)
    return encoder.eval().requires_grad_(False), timm.data.resolve_model_data_config(encoder)


def cached_folder(repository):
    """Return the folder of the Hub's cache that has a model of timm, or None: no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    if not repository:
        return None
    name, _, revision = repository.partition("@")
    files = ("config.json", "model.safetensors")
    found = [try_to_load_from_cache(name, file, revision=revision or None) for file in files]
    return Path(found[0]).parent if all(isinstance(each, str) for each in found) else None


def load_encoder_weights(encoder, path, name):
    """Load the state_dict at `path` into timm's `encoder`; that of a classifier, which it no longer has, is left out.

    Raises ValueError when names or shapes differ otherwise.
    """
    weights = load_weights(path, made_by=f"the download of {name}'s weights")
    classifier = encoder.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        encoder.load_state_dict(
            {key: value for key, value in weights.items() if not key.startswith(tuple(f"{head}." for head in heads))}
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the weights of {name} ({error})") from None


def find_pictures(out, size):
    """Return the file with larger pictures than Q1's, of `size` pixels, and a sentence on which the encoder sees.

    It is the HDF5 file that q1_data.py has read, by the record beside q1_data.pt; None where there is none.
    """
    record_path = Path(out) / "q1_data.json"
    record = load_json(record_path) if record_path.is_file() else {"source": "", "args": {}}
    args, path = record["args"], None
    if args.get("data") and not args.get("labels"):
        path = Path(args["data"])
    elif record["source"].startswith("galaxy10-"):
        path = Path(args["cache"]) / PUBLISHED[record["source"].removeprefix("galaxy10-")].name
    sees = f"The encoder sees the pictures of {size} x {size} pixels in q1_data.pt"
    if path is None:
        return None, f"{sees}: there is no file of larger ones."
    if not path.is_file():
        return None, f"{sees}: {path}, which q1_data.py has read, is not there any more."
    with open_hdf5(path) as file:
        own = dataset(path, file, "images").shape[1]
    if own <= size:
        return None, f"{sees}: those in {path.name} are no larger."
    return path, f"The encoder sees the pictures of {own} x {own} pixels in {path.name}, not the {size} of q1_data.pt."


def batches(images, path=None):
    """Yield all pictures in the order of the galaxies' file, uint8 (m, 3, h, w), m at most BATCH_SIZE.

    images: Q1's, uint8 (n, 3, h, w); path: the HDF5 file with larger ones. Raises ValueError when that is damaged, or
    when its pictures, resized, are not Q1's.
    """
    if path is None:
        yield from images.split(BATCH_SIZE)
        return
    with reading(path), open_hdf5(path) as file:
        pictures, others = dataset(path, file, "images"), f"{path} has other pictures than q1_data.pt: rerun q1_data.py"
        if len(pictures) != len(images):
            raise ValueError(others)
        for rows in row_blocks(pictures):
            block = np.array(pictures[rows])
            small = resize(block, images.shape[-1]).astype(int)
            if np.abs(small - images[rows].permute(0, 2, 3, 1).numpy()).max() > 1:  # the last bit may be rounded
                raise ValueError(others)
            yield from torch.from_numpy(block).permute(0, 3, 1, 2).split(BATCH_SIZE)


@torch.inference_mode()
def encode(encoder, config, pictures, device):
    """Return the features, float32 (n, d), of whole pictures, batches of uint8 (m, 3, h, w).

    They are resized to the encoder's own input size and normalised with its own mean and std, of values from 0 to 1.
    """
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    mode = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    features, encoder = [], encoder.to(device)
    for batch in pictures:
        pixels = batch.to(device).float() / 255
        resized = functional.interpolate(pixels, (height, width), mode=mode, antialias=True)
        features.append(encoder((resized.clamp(0, 1) - mean) / std).cpu())
    return torch.cat(features)


def encoder_features(name, weights, size, data, out, device):
    """Compute the encoder's features of all galaxies of Q1's `data`; return their file's name and what made them.

    Returned too: sentences on which pictures the encoder sees, and has seen. The file in {out}/studies has `features`,
    float32 (n, d), in the order of the galaxies' file, for each encoder, its weights, input size, pictures and the
    fingerprint of the data one. size: pixels, in place of the encoder's own input size.
    """
    encoder, config = load_encoder(name, weights)
    if size:
        config |= {"input_size": (3, size, size)}
    path, note = find_pictures(out, data["main_train_images"].shape[-1])
    made_from = {
        "encoder": name,
        "encoder_weights": weights_hash(encoder.state_dict()),
        "fingerprint": data["fingerprint"],
        **{key: config[key] for key in ("mean", "std", "interpolation")},
        "input_size": list(config["input_size"]),
        "pictures": path.name if path else "q1_data.pt",
    }
    key = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:16]
    file = Path(out) / "studies" / f"encoder-{key}.pt"
    if not file.is_file():
        place = np.argsort(np.concatenate([data[f"{subset}_indices"] for subset in SUBSETS]))
        images = torch.cat([data[f"{subset}_images"] for subset in SUBSETS])[place]
        steps = tqdm(batches(images, path), desc=f"features of {name}", unit="batch", leave=False, disable=None)
        save_tensors({"features": encode(encoder, config, steps, device)}, file)
    known = f"{name} {weights} {encoder.pretrained_cfg}".lower()
    return file.name, made_from, [note, *([SEEN] if "zoobot" in known else [])]


def measure(out, device, seed, task, epochs, features, **_):
    """Return the test accuracies of a linear head on the encoder's features, and of what it is compared with."""
    data = sample(out, seed)
    encoded = load_tensors(Path(out) / "studies" / features, made_by="studies.encoder")["features"]
    pairs = [(encoded[data[f"{task}_{each}_indices"]], data[f"{task}_{each}_labels"]) for each in ("train", "test")]
    result = {"encoder": head_accuracy(*pairs, seed)}
    if task == "main":
        cnn, data = seed_network("cnn", out, seed, epochs, device)
        logits, labels = predict(cnn, main_task(data, device).test_loader)
        result["other"] = (logits.argmax(1) == labels).double().mean().item()
    else:
        trained = make_backbone()
        load_backbone(
            trained, Path(out) / "q3_cnn.pt", load_data(out), force=True
        )  # `main` has checked where it comes from
        result["other"] = head_accuracy(*backbone_features(trained, data, task), seed)
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
    cli.run(main)

"""Does a larger encoder, pretrained on other images and frozen, beat the assignment's CNN? (Optional: needs timm.)

The encoder sees whole images, at the resolution of the file that q1_data.py read; the assignment's networks see crops.
An encoder trained on the same survey may have seen the test images: for Zoobot, a note says so. A linear head on the
encoder's features is compared, on the main classes, with the CNN of `OMP_NUM_THREADS=1 make all SEED=s` and, on the
transfer classes, with a linear head on Q3's frozen backbone. The heads are scikit-learn's logistic regression,
regularised by cross-validation.

Reads q1_data.pt and q3_cnn.pt under --out. Writes encoder.json, encoder.png, the features and a file per run into
{out}/studies.
"""

from pathlib import Path
from textwrap import shorten

from common import cli
from common.data import load_data
from common.galaxies.hdf5 import dataset, open_hdf5, reading, resize, row_blocks
from common.galaxies.source import galaxies_file
from common.galaxies.split import task_names
from common.hardware.device import choose_device
from common.storage.artifacts import load_json, load_tensors, save_tensors
from common.storage.checkpoint import load_weights, weights_hash
from common.storage.packages import require
from studies.methods.runs import collect, in_file_order, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_seeds, judged, mean_interval, points, share_text, table_lines
from studies.methods.training import COLOURS, accuracy_of, head_accuracy, make_loader, seed_network, short_hash
from studies.transfer import backbone_features, sample, trained_backbone

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

BATCH_SIZE = 32
SEEN = "Zoobot was trained on Galaxy Zoo's pictures of SDSS and DECaLS, which include galaxies of Galaxy10's test set."
TASKS = {"main": "CNN", "transfer": "frozen backbone of Q3"}  # the other network in the comparison


def load_encoder(name, weights=None):
    """Return timm's model `name` without its classifier, frozen, and its data config: input_size, mean, std and more.

    name: as for timm.create_model, such as hf_hub:OWNER/MODEL or local-dir:FOLDER; weights: file of its state_dict, by
    default downloaded by timm. Raises ValueError if timm is missing or cannot load the model or its weights.
    """
    require(f"--encoder {name}", "timm")
    import timm

    try:
        encoder = timm.create_model(name, pretrained=weights is None, num_classes=0)
        if weights is not None:
            classifier = encoder.pretrained_cfg.get("classifier") or ()
            heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
            tensors = load_weights(weights, made_by=f"the download of {name}'s weights")
            encoder.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(heads)})
    except Exception as error:  # timm and huggingface_hub raise a dozen types
        remedy = "check the name and the files, or download both and use --encoder local-dir:FOLDER"
        raise ValueError(f"--encoder {name}: timm cannot load it ({shorten(str(error), 200)}): {remedy}") from None
    return encoder.eval().requires_grad_(False), timm.data.resolve_model_data_config(encoder)


def larger_pictures(out, size):
    """Return the HDF5 file that Q1 read, or None unless its images have more than `size` pixels, and a note."""
    path = galaxies_file(load_json(Path(out) / "q1_data.json"), out)
    sees = f"The encoder sees the pictures of {size} x {size} pixels in q1_data.pt"
    if not path.is_file():
        return None, f"{sees}: {path}, which q1_data.py read, no longer exists."
    with open_hdf5(path) as file:
        own = dataset(path, file, "images").shape[1]
    if own <= size:
        return None, f"{sees}: those in {path.name} are no larger."
    return path, f"The encoder sees the pictures of {own} x {own} pixels in {path.name}, not the {size} of q1_data.pt."


def picture_batches(images, path=None):
    """Yield all images in file order, uint8 (m, 3, h, w), with m at most BATCH_SIZE.

    images: Q1's, uint8 (n, 3, h, w); path: HDF5 file with larger ones. Raises ValueError if the file is damaged or its
    images, resized, differ from Q1's.
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
def encode(encoder, config, batches, device):
    """Return the features, float32 (n, d), of batches of images, uint8 (m, 3, h, w), resized and normalised."""
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    mode = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    features, encoder = [], encoder.to(device)
    for batch in batches:
        pixels = batch.to(device).float() / 255
        resized = functional.interpolate(pixels, (height, width), mode=mode, antialias=True)
        features.append(encoder((resized.clamp(0, 1) - mean) / std).cpu())
    return torch.cat(features)


def encoder_features(name, weights, size, data, out, device):
    """Return the name of the file with the encoder's features of all images, its inputs, and notes.

    The file, in {out}/studies, contains `features`, float32 (n, d), in file order. size: input size in pixels, by
    default the encoder's. The notes say which images the encoder sees, and whether it was trained on them.
    """
    encoder, config = load_encoder(name, weights)
    if size:
        config |= {"input_size": (3, size, size)}
    path, note = larger_pictures(out, data["main_train_images"].shape[-1])
    made_from = {
        "encoder": name,
        "encoder_weights": weights_hash(encoder.state_dict()),
        "fingerprint": data["fingerprint"],
        **{key: config[key] for key in ("mean", "std", "interpolation")},
        "input_size": list(config["input_size"]),
        "pictures": path.name if path else "q1_data.pt",
    }
    file = Path(out) / "studies" / f"encoder-{short_hash(sorted(made_from.items()))}.pt"
    if not file.is_file():
        images, place = in_file_order(data)
        batches = picture_batches(images[place], path)
        steps = tqdm(batches, desc=f"features of {name}", unit="batch", leave=False, disable=None)
        save_tensors({"features": encode(encoder, config, steps, device)}, file)
    known = f"{name} {weights} {encoder.pretrained_cfg}".lower()
    return file.name, made_from, [note, *([SEEN] if "zoobot" in known else [])]


def measure(out, device, seed, task, epochs, features, backbone):
    """Return the test accuracies of a linear head on the encoder's features and of the other network, see TASKS.

    features: name of the file; backbone: hash of the weights of Q3's backbone.
    """
    # Mean and std are from this split for the CNN, from Q3's split for Q3's backbone.
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
    """Return the accuracies of the encoder and the other network by task and seed, and their differences."""
    tasks = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        values = {name: [row[name] for row in select(rows, task=task)] for name in ("encoder", "other")}
        tasks[task] = {
            "seeds": values,
            "accuracy": {name: mean_interval(each) for name, each in values.items()},
            "difference": mean_interval(np.subtract(values["encoder"], values["other"])),
        }
    return tasks


def describe(record):
    """Return the answer."""
    gains = {task: judged(found["difference"]) for task, found in record["tasks"].items()}
    parts = [f"{gain}, over the {TASKS[task]} on the {task} classes" for task, gain in gains.items()]
    return [f"{record['encoder']['encoder']}, frozen, gains {' and '.join(parts)}."]


def tables(record):
    """Return the table of docs/studies.md."""
    rows = []
    for task, found in record["tasks"].items():
        encoder, other = (share_text(found["accuracy"][which]) for which in ("encoder", "other"))
        rows.append((task, encoder, TASKS[task], other, points(found["difference"])))
    return table_lines(("classes", "encoder, frozen", "compared with", "accuracy", "difference"), rows)


def encoder_figure(tasks, name):
    """Return a figure of the accuracies on both tasks: a point per seed, the mean and its interval."""
    figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
    rows = [(task, which) for task in tasks for which in ("encoder", "other")]
    for row, (task, which) in enumerate(rows):
        colour = "black" if which == "encoder" else COLOURS["cnn"]
        draw_seeds(ax, row, tasks[task]["seeds"][which], tasks[task]["accuracy"][which], colour)
    labels = [f"{task}: {name.rpartition('/')[2] if which == 'encoder' else TASKS[task]}" for task, which in rows]
    ax.set_yticks(range(len(rows)), labels)
    ax.invert_yaxis()
    figure.suptitle("A larger encoder, frozen")
    return figure


def main():
    args = get_args()
    data, device = load_data(args.out), choose_device(args.device)
    _, backbone = trained_backbone(args.out, args.force)
    options = args.encoder, args.encoder_weights, args.encoder_size
    features, made_from, notes = encoder_features(*options, data, args.out, device)
    settings = {"epochs": args.epochs, "features": features, "backbone": backbone}
    runs = [{"seed": seed, "task": task} for task, names in task_names(data).items() if names for seed in args.seeds]
    record = {"encoder": made_from, "tasks": summarise(collect(__file__, measure, runs, args, data, **settings))}
    figure, sentences = encoder_figure(record["tasks"], args.encoder), [*describe(record), *notes]
    save_study(__file__, args, data, figure, sentences, **record)


def get_args(argv=None):
    parser = study_parser(
        __doc__,
        "python -m studies.encoder --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano  # trained on Galaxy Zoo",
        "python -m studies.encoder --encoder local-dir:zoobot  # a folder with its config.json and model.safetensors",
    )
    add = parser.add_argument
    add("--encoder", required=True, metavar="NAME", help="timm model, hf_hub:OWNER/MODEL or local-dir:FOLDER")
    add("--encoder-weights", type=cli.path, metavar="PTH", help="its state_dict (default: timm downloads it)")
    add("--encoder-size", type=cli.positive_int, metavar="PIXELS", help="input size (default: the model's)")
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")

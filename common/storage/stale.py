"""Tell make that a question must be redone although its script, the code and the artifacts it reads are older.

`python -m common.storage.stale q2_fcn --out artifacts --epochs 30` prints why, or nothing: a file of the question is
missing, its JSON says that it was run with other options, or --data or --labels is newer, whose names may be ones that
make cannot handle. It imports the standard library only, so that it takes 0.03 s.
"""

import json
import os
import sys
from pathlib import Path

# The scripts' default options, to be looked up without importing the scripts or torch; a test holds them equal.
_TRAINING = {"batch_size": 64, "precision": "float32", "deterministic": False, "seed": 0, "device": "auto"}
DEFAULTS = {
    "q1_data": {
        "data": None,
        "hold_back": None,
        "source": "auto",
        "dataset": "sdss",
        "count": 21785,
        "main_train": None,
        "transfer_train": None,
        "split": "auto",
        "stats_images": 1000,
        "seed": 0,
    },
    "q2_fcn": _TRAINING | {"epochs": 50, "lr": 0.001},
    "q3_cnn": _TRAINING | {"epochs": 50, "lr": 0.002, "symmetries": False, "calibrate": None},
    "q4_confusion": {"seed": 0, "device": "auto", "force": False},
    "q5_transfer": _TRAINING | {"epochs": 20, "lr": 0.005, "backbone": None, "force": False},
}
NO_SETTINGS = ("out", "cache", "resume")  # where files lie, and how a run came to its end, change no result


def differences(recorded, name, given):
    """Return the options, as a list of phrases, that a run of the script `name` had and a new one would not have.

    recorded: the "args" of its JSON; given: texts by option, of a command line. An option that is not given has its
    default. Any device fits --device auto: it is no wish for another one.
    """
    phrases = []
    for key, expected in (DEFAULTS[name] | given).items():
        if key not in recorded:
            phrases.append(f"--{key.replace('_', '-')} was not recorded")
        elif not is_same(recorded[key], expected) and (key, expected) != ("device", "auto"):
            phrases.append(f"--{key.replace('_', '-')} was {recorded[key]}, not {expected}")
    return phrases


def is_same(recorded, expected):
    """Return whether a recorded value is the expected one, which may be the text of a number."""
    if isinstance(recorded, (int, float)) and isinstance(expected, str):
        try:
            return recorded == type(recorded)(expected)
        except ValueError:
            return False
    return recorded == expected


def reasons(name, out, given):
    """Return why the question must be redone, as a list of phrases; nothing when its JSON does not exist yet."""
    record_path = Path(out) / f"{name}.json"
    if not record_path.is_file():
        return []
    kinds = ("png",) if name == "q4_confusion" else ("pt", "png")
    missing = [f"{name}.{kind} is missing" for kind in kinds if not (Path(out) / f"{name}.{kind}").is_file()]
    try:
        recorded = dict(json.loads(record_path.read_text(encoding="utf-8"))["args"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return [*missing, f"{record_path.name} does not tell its options"]
    made = record_path.stat().st_mtime_ns
    sources = [given[key] for key in ("data", "labels") if key in given]
    return (
        missing + differences(recorded, name, given) + [f"{path} is newer" for path in sources if changed(path) > made]
    )


def changed(path):
    """Return when a file, or the last of a folder and all below it, was changed: in nanoseconds, 0 if it is missing."""
    inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in ("", *names)]
    return max((os.stat(each).st_mtime_ns for each in inside or [path] if os.path.exists(each)), default=0)


def main(name, *options):
    given = {key.lstrip("-").replace("-", "_"): text for key, text in zip(options[::2], options[1::2], strict=True)}
    given |= {"data": os.path.expanduser(given["data"])} if "data" in given else {}  # as the script records it
    out = given["out"]
    print("; ".join(reasons(name, out, {key: text for key, text in given.items() if key not in NO_SETTINGS})))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""List the questions that make must rerun although their records are newer than their dependencies.

`python -m common.storage.stale --out artifacts --epochs 30` prints the names of questions whose last run had different
options, whose files are missing, or that are older than the file --data. It imports only the standard library, so it
takes 0.03 s.
"""

import json
import os
import sys
from pathlib import Path

NO_SETTINGS = ("out", "cache", "resume")  # options that do not affect results


def is_stale(path, given):
    """Return whether the record at `path` is from a run with options other than `given`, strings by name.

    Options that are not given have the script's defaults, which the record contains. Options of other scripts are
    ignored.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files, options, wanted = record["files"], record["args"].items(), record["defaults"] | given
    except (ValueError, KeyError, TypeError, AttributeError):
        return True
    data = given.get("data", "")
    return (
        any(not matches(key, value, wanted.get(key)) for key, value in options)
        or any(not path.with_name(name).exists() for name in files)
        or (os.path.exists(data) and os.stat(data).st_mtime_ns > path.stat().st_mtime_ns)
    )


def matches(key, recorded, wanted):
    """Return whether the recorded value of an option is the wanted value, or its text on a command line."""
    if wanted == "auto" and ((key, recorded) == ("source", "real") or key == "device"):
        return True  # "auto" accepts results of any device, and real data
    return key in NO_SETTINGS or str(recorded) == str(wanted)


def main(arguments):
    given, key = {}, None
    for word in arguments:
        if word.startswith("--"):
            key, word = word[2:].replace("-", "_"), True
        given[key] = word
    if "data" in given:
        given["data"] = os.path.expanduser(given["data"])  # as the scripts record it
    print(*(path.stem for path in sorted(Path(given["out"]).glob("q*.json")) if is_stale(path, given)))


if __name__ == "__main__":
    main(sys.argv[1:])

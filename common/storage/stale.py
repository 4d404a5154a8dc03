"""Tell make which questions must run again although their records are newer than all that they depend on.

`python -m common.storage.stale --out artifacts --epochs 30` prints the names of those in artifacts/ whose run had other
options, whose files are not all there, or that are older than the file --data. It imports the standard library only, so
that it takes 0.03 s.
"""

import json
import os
import sys
from pathlib import Path

NO_SETTINGS = ("out", "cache", "resume")  # where files lie, and how a run came to its end, change no result


def is_stale(path, given):
    """Return whether the record at `path` is not that of a run with the options `given`, texts by name.

    Options that are not given have the script's defaults, which the record holds; those that its script does not have
    are ignored.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files, options, wanted = record["files"], record["args"].items(), record["defaults"] | given
    except (ValueError, KeyError, TypeError, AttributeError):
        return True
    data = given.get("data", "")
    return (
        any(not fits(key, value, wanted.get(key)) for key, value in options)
        or any(not path.with_name(name).exists() for name in files)
        or (os.path.exists(data) and os.stat(data).st_mtime_ns > path.stat().st_mtime_ns)
    )


def fits(key, recorded, wanted):
    """Return whether the recorded value of an option is the wanted one, which may be its text on a command line."""
    if wanted == "auto" and ((key, recorded) == ("source", "real") or key == "device"):
        return True  # "auto" is no wish for another one
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

"""Which packages are installed: those of requirements.txt in versions that are new enough, and optional ones.

`python -m common.storage.packages FILE ...` prints nothing, or one line with the pip command for what is missing.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def release(text):
    """Return a version's release numbers, at least four of them: "2.6.0+cpu" is [2, 6, 0, 0]."""
    numbers = [int(number) for number in re.match(r"\d+(\.\d+)*", text)[0].split(".")]
    return numbers + [0] * (4 - len(numbers))


def is_met(requirement):
    """Return whether a package is installed in the version that a requirement such as "torch>=2.6" asks for."""
    name, _, lowest = requirement.partition(">=")
    try:
        return not lowest or release(version(name)) >= release(lowest)
    except PackageNotFoundError:
        return False


def require(what, *names):
    """Raise ValueError, saying that `what` needs them, when packages are not installed; names: as they are imported."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def main(*files):
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    unmet = [line for line in lines if line and not line.startswith(("#", "-")) and not is_met(line)]
    if unmet:
        quoted = " ".join(f'"{requirement}"' for requirement in unmet)
        print(f"packages are missing or too old: {sys.executable} -m pip install {quoted}")


if __name__ == "__main__":
    main(*sys.argv[1:])

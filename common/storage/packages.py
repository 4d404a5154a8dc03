"""Optional packages."""

from importlib.util import find_spec


def require(what, *names):
    """Raise ValueError if packages are not installed; what: the feature that needs them; names: their import names."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}: pip install {' '.join(missing)}")

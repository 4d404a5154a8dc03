"""Which of the project's files a file needs, and in what order a reader meets them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imports(path):
    """Return the dotted names that a file under ROOT imports, in order: `from a.b import c` is a.b.c."""
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def files_of(name):
    """Return the project's files that importing a dotted name executes: those of its packages, then its own.

    A last part that is no module, such as a function, adds none; a name from outside the project gives [].
    """
    parts = name.split(".")
    modules = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    paths = [path for module in modules for path in (f"{module}/__init__.py", f"{module}.py")]
    return [path for path in paths if (ROOT / path).is_file()]


def imported(path):
    """Return the project's files that a file imports itself, as paths under ROOT, in order."""
    return list(dict.fromkeys(file for name in imports(path) for file in files_of(name)))


def needed(*paths):
    """Return all of the project's files that these files import, directly or not, each after those it imports."""
    found, seen = [], set(paths)

    def visit(path):
        for file in imported(path):
            if file not in seen:
                seen.add(file)
                visit(file)
                found.append(file)

    for path in paths:
        visit(path)
    return found

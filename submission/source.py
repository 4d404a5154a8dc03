"""Which of the project's files a script needs, and in what order a reader meets them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported(path):
    """Return the files of common/ that a file of the project imports itself, as paths under ROOT, in order."""
    files = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "common":
            files += [f"common/{alias.name}.py" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common."):
            files.append(node.module.replace(".", "/") + ".py")
    return files


def needed(path):
    """Return all files of common/ that a file needs, each after those that it needs itself."""
    files = ["common/__init__.py"]
    for file in imported(path):
        files += [other for other in (*needed(file), file) if other not in files]
    return files

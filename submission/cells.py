"""The notebook's cells: what the assignment asks, the project's own code, its output and the discussion."""

import nbformat.v4 as v4

from submission.source import ROOT, needed

TITLE = """\
# Recognising galaxies with deep neural networks

PHYS-467 (EPFL), assignment 3. *Run All* makes everything anew: the code of each question is written to files beside
this notebook and run, and the discussion's sentences are made from the figures of that run. What is set below decides
on which data.
"""

SETUP = """\
import importlib.util
import subprocess
import sys

PACKAGES = {packages}
missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)

import torch

device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(f"torch {{torch.__version__}} on {{device}}")
"""

SETTINGS = """\
DATA = {DATA!r}  # a Galaxy10 HDF5 file; None: Galaxy10 SDSS, downloaded, or a synthetic set where it cannot be
SOURCE = {SOURCE!r}  # auto, real or synthetic
COUNT = {COUNT!r}  # images in a synthetic set; None: as many as in Galaxy10 SDSS
MAIN_TRAIN = {MAIN_TRAIN!r}  # training images of classes 0-7; None: the assignment's 18000
TRANSFER_TRAIN = {TRANSFER_TRAIN!r}  # training images of classes 8 and 9; None: the assignment's 1000
EPOCHS = {EPOCHS!r}  # of each training; None: the assignment's 50, 50 and 20
SEED = {SEED!r}
"""

HELPERS = """\
import json
import struct
import sys
from pathlib import Path

from IPython.display import Image, Markdown, display

OUT = Path("results")
Path("common").mkdir(exist_ok=True)
sys.path.insert(0, "")  # the files written below are imported from here


def run(script, **options):
    \"\"\"Run one of the scripts and show what it prints; options that are None are left out.\"\"\"
    command = [sys.executable, script, "--out", str(OUT), "--seed", str(SEED)]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="")
            last = line
    if process.returncode != 0:
        raise RuntimeError(f"{script}: {last.strip()}")


def show(name, description):
    \"\"\"Show one of the pictures at half its pixels, so that it is crisp on a fine screen.\"\"\"
    picture = (OUT / f"{name}.png").read_bytes()
    width = struct.unpack(">I", picture[16:20])[0]
    display(Image(picture, width=width // 2, metadata={"alt": description}))


def record(name):
    \"\"\"Return the figures that a question has written.\"\"\"
    return json.loads((OUT / f"{name}.json").read_text())
"""

# For each question: its script, its heading, what is asked, how it is run, its pictures, its discussion.
QUESTIONS = (
    (
        "q1_data.py",
        "Q1 · The data",
        "Read Galaxy10 from HDF5, look at it, keep classes 8 and 9 for later, split both sets, and crop and "
        "normalise with mean and standard deviation of the training images.",
        'run("q1_data.py", data=DATA, source=None if DATA else SOURCE, count=None if DATA else COUNT, '
        "main_train=MAIN_TRAIN, transfer_train=TRANSFER_TRAIN)",
        {"q1_data": "Training pictures of each class, with its name and number of images"},
        'discuss_data(record("q1_data"))',
    ),
    (
        "q2_fcn.py",
        "Q2 · A fully connected network",
        "Train a network of one hidden layer for 50 epochs with Adam, and describe how the losses behave.",
        'run("q2_fcn.py", epochs=EPOCHS)',
        {"q2_fcn": "Loss and accuracy of the fully connected network by epoch, on training and test images"},
        'discuss_fcn(record("q2_fcn"))',
    ),
    (
        "q3_cnn.py",
        "Q3 · A convolutional network",
        "Train a convolutional network on the same data, and say how it compares with the fully connected one, "
        "and why.",
        'run("q3_cnn.py", epochs=EPOCHS)',
        {"q3_cnn": "Loss and accuracy of the convolutional network by epoch, on training and test images"},
        'discuss_cnn(record("q3_cnn"))',
    ),
    (
        "q4_confusion.py",
        "Q4 · What they confuse",
        "Compute the confusion matrices of both networks on the whole test set, and explain them by the "
        "unbalanced data.",
        'run("q4_confusion.py")',
        {"q4_confusion": "Confusion matrices of both networks, counts and percentages of each true class"},
        'discuss_confusion(record("q4_confusion"))',
    ),
    (
        "q5_transfer.py",
        "Q5 · Transfer to two new classes",
        "Freeze the convolutional backbone and train a new linear head on the two classes kept back.",
        'run("q5_transfer.py", epochs=EPOCHS)',
        {"q5_transfer": "Loss and accuracy of the transfer by epoch, and its confusion matrix"},
        'discuss_transfer(record("q5_transfer"))',
    ),
    (
        "look_inside.py",
        "A look inside",
        "What do the networks see? Their surest mistakes, the first filters, both networks under shifted pictures, "
        "and the features of the two new classes.",
        'run("look_inside.py")',
        {
            "inside_mistakes": "The most confident mistakes of each network, with predicted and true class names",
            "inside_filters": "The eight filters of the first layer and their responses to three galaxies",
            "inside_shifts": "Accuracy and changed predictions of both networks as test pictures are shifted",
            "inside_features": "Test features of the two new classes in a plane, with the decision line",
        },
        'discuss_shifts(record("inside"))',
    ),
)


def code(source, name):
    """Return a code cell with a name of its own, by which errors and the page call it."""
    return v4.new_code_cell(source.strip(), metadata={"name": name})


def file_cell(path):
    """Return the code cell that writes one of the project's files, word for word."""
    return code(f"%%writefile {path}\n{(ROOT / path).read_text(encoding='utf-8')}", path)


def packages():
    """Return the packages to install, by the module that tells whether they are there."""
    modules = {"scikit-learn": "sklearn"}
    lines = (ROOT / "requirements.txt").read_text().split()
    names = [line.partition(">=")[0] for line in lines]
    return {modules.get(name, name): line for name, line in zip(names, lines, strict=True)}


def notebook(settings):
    """Return the notebook, not yet run; settings: the values of the cell near its top, by name."""
    cells = [
        v4.new_markdown_cell(TITLE),
        code(SETUP.format(packages=packages()), "packages and device"),
        code(SETTINGS.format(**settings), "settings"),
        code(HELPERS, "helpers"),
    ]
    written = []
    for script, heading, ask, call, pictures, discussion in QUESTIONS:
        anchor = script.partition("_")[0]
        cells.append(v4.new_markdown_cell(f'<a id="{anchor}"></a>\n\n## {heading}\n\n*Asked:* {ask}'))
        new = [path for path in needed(script) if path not in written]
        cells += [file_cell(path) for path in (*new, script)]
        written += new
        cells.append(code(call, f"run {script}"))
        shown = "\n".join(f"show({name!r}, {text!r})" for name, text in pictures.items())
        cells.append(code(shown, f"pictures of {script}"))
        if script == "q1_data.py":
            new = [path for path in (*needed("common/discuss.py"), "common/discuss.py") if path not in written]
            cells += [file_cell(path) for path in new]
            written += new
        function = discussion.partition("(")[0]
        source = f"from submission.discuss import {function}\n\ndisplay(Markdown({discussion}))"
        cells.append(code(source, f"discussion of {script}"))
    cells.append(v4.new_markdown_cell('<a id="end"></a>\n\n## In short, and thanks'))
    ending = "from submission.discuss import acknowledge, headline\n\n"
    ending += 'display(Markdown(headline(record("q2_fcn"), record("q3_cnn"), record("q5_transfer"))))\n'
    ending += 'display(Markdown("*Data:* " + acknowledge(record("q1_data"))))'
    cells.append(code(ending, "in short"))
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def contents():
    """Return the table of contents: (anchor, heading) in order."""
    return [(script.partition("_")[0], heading) for script, heading, *_ in QUESTIONS] + [
        ("end", "In short, and thanks")
    ]

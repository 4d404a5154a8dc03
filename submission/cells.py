"""The notebook's cells: what the assignment asks, the project's own code, its output and the discussion."""

import inspect
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import nbformat.v4 as v4

from common import packages
from common.galaxies import download
from submission import discuss, texts
from submission.source import ROOT, imports, needed

MODULES = {"scikit-learn": "sklearn"}  # packages that are imported under another name


class Question(NamedTuple):
    """A question: its script, what is asked, how the script is run, its pictures with captions, its discussion."""

    script: str
    heading: str
    asked: str
    call: str
    pictures: dict[str, str]
    discuss: Callable
    record: str  # the JSON file that `discuss` takes


QUESTIONS = (
    Question(
        "q1_data.py",
        "Q1 · The data",
        "Read Galaxy10 from HDF5, look at it, keep classes 8 and 9 for later, split both sets, and crop and "
        "normalise with mean and standard deviation of the training images.",
        "options = find_data()\n"
        'run("q1_data.py", **options, split=SPLIT, image_size=IMAGE_SIZE, main_train=MAIN_TRAIN, '
        "transfer_train=TRANSFER_TRAIN)",
        {"q1_data": "Training images of each class, with its name and number of images."},
        discuss.discuss_data,
        "q1_data",
    ),
    Question(
        "q2_fcn.py",
        "Q2 · A fully connected network",
        "Train a network of one hidden layer for 50 epochs with Adam, and describe how the losses behave.",
        'run("q2_fcn.py", epochs=EPOCHS, device=DEVICE, precision=PRECISION)',
        {"q2_fcn": "Loss and accuracy of the fully connected network by epoch, on training and test images."},
        discuss.discuss_fcn,
        "q2_fcn",
    ),
    Question(
        "q3_cnn.py",
        "Q3 · A convolutional network",
        "Train a convolutional network on the same data, and say how it compares with the fully connected one, "
        "and why.",
        'run("q3_cnn.py", epochs=EPOCHS, device=DEVICE, precision=PRECISION)',
        {"q3_cnn": "Loss and accuracy of the convolutional network by epoch, on training and test images."},
        discuss.discuss_cnn,
        "q3_cnn",
    ),
    Question(
        "q4_confusion.py",
        "Q4 · What they confuse",
        "Compute the confusion matrices of both networks on the whole test set, and explain them by the "
        "unbalanced data.",
        'run("q4_confusion.py", device=DEVICE)',
        {"q4_confusion": "Confusion matrices of both networks: counts, and percentages of each true class."},
        discuss.discuss_confusion,
        "q4_confusion",
    ),
    Question(
        "q5_transfer.py",
        "Q5 · Transfer to two new classes",
        "Freeze the convolutional backbone and train a new linear head on the two classes kept back.",
        'run("q5_transfer.py", epochs=EPOCHS, device=DEVICE, precision=PRECISION)',
        {"q5_transfer": "Loss and accuracy of the transfer by epoch, and its confusion matrix."},
        discuss.discuss_transfer,
        "q5_transfer",
    ),
    Question(
        "studies/inside.py",
        "A look inside",
        "What do the networks see? Their most confident mistakes, the first filters, both networks under shifted "
        "images, and the features of the two new classes.",
        'run("studies/inside.py")',
        {
            "studies/inside_mistakes": "The most confident mistakes of each network, with predicted and true names.",
            "studies/inside_filters": "The eight filters of the first layer and their responses to three galaxies.",
            "studies/inside_shifts": "Accuracy and changed predictions of both networks as test images are shifted.",
            "studies/inside_features": "Test features of the two new classes in a plane, with the decision line.",
        },
        discuss.discuss_shifts,
        "studies/inside",
    ),
)


def code(source, name, role=None):
    """Return a code cell with a name, by which errors and the page call it.

    role: of a cell that is no plain code: "script"; or, with hidden code, "pictures", "discussion" or "support", whose
    output is hidden too.
    """
    metadata = {"name": name} if role is None else {"name": name, "role": role}
    if role not in (None, "script"):
        metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": role == "support"}
    return v4.new_code_cell(source.strip(), metadata=metadata)


def heading(text, anchor, **metadata):
    """Return the Markdown cell that begins a section; the page's contents lead to its anchor."""
    return v4.new_markdown_cell(f'<a id="{anchor}"></a>\n\n{text.strip()}', metadata={"section": anchor, **metadata})


def file_cell(path, role):
    """Return the code cell that writes one of the project's files, word for word."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if not text.strip():  # %%writefile refuses to write an empty file
        return code(f'Path("{path}").write_text("")', path, role)
    return code(f"%%writefile {path}\n{text}", path, role)


def requirements(paths):
    """Return the lines of requirements.txt for the packages that these files import."""
    modules = {name.partition(".")[0] for path in paths for name in imports(path)}
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    names = {line: line.partition(">=")[0] for line in lines if line}
    return [line for line, name in names.items() if MODULES.get(name, name) in modules]


def import_lines(*functions):
    """Return the import statements of functions of the discussion, from wherever they are defined."""
    return "".join(f"from {function.__module__} import {function.__name__}\n" for function in functions) + "\n"


def setup(requirements):
    """Return the source of the cell that installs the packages which are missing or too old."""
    functions = "\n\n".join(inspect.getsource(function) for function in (packages.release, packages.is_met))
    return texts.SETUP.format(requirements=requirements, functions=functions)


def introduction():
    """Return the cells that come before the questions, the last of them the supporting code."""
    scripts = [question.script for question in QUESTIONS]
    functions = [discuss.headline, discuss.acknowledge, *(question.discuss for question in QUESTIONS)]
    sentences = list(dict.fromkeys(function.__module__.replace(".", "/") + ".py" for function in functions))
    files = needed(*scripts, *sentences)
    files += [path for path in sentences if path not in files]
    files = [path for path in files if path not in scripts]
    wanted = requirements([*scripts, *files])
    published = {remote.sha256: name for name, remote in download.PUBLISHED.items()}
    folders = sorted({path.rpartition("/")[0] for path in (*scripts, *files)} - {""})
    helpers = texts.HELPERS.format(published=published, folders=folders)
    return [
        v4.new_markdown_cell(texts.TITLE),
        heading(texts.SETTINGS_HEADING, "settings"),
        code(setup(wanted), "packages and device"),
        code(texts.SETTINGS, "settings"),
        # JupyterLab and Notebook 7 show only the heading of such a section, and run its cells all the same.
        heading(texts.SUPPORT_HEADING, "support", **{"jp-MarkdownHeadingCollapsed": True}),
        code(helpers, "helpers", "support"),
        *(file_cell(path, "support") for path in files),
    ]


def notebook(settings):
    """Return the notebook, not yet run; settings: the values of the cell near its top, by name."""
    cells = introduction()
    settings_cell = next(cell for cell in cells if cell.metadata.get("name") == "settings")
    settings_cell.source = settings_cell.source.format(**settings)
    numbers = count(1)
    for question in QUESTIONS:
        script, name = question.script, question.discuss.__name__
        anchor = Path(script).stem.partition("_")[0]
        cells.append(heading(f"## {question.heading}\n\n*Asked:* {question.asked}", anchor))
        cells.append(file_cell(script, "script"))
        cells.append(code(question.call, f"run {script}"))
        shown = [f"Figure {next(numbers)}. {caption}" for caption in question.pictures.values()]
        shown = [f"show({picture!r}, {text!r})" for picture, text in zip(question.pictures, shown, strict=True)]
        cells.append(code("\n".join(shown), f"pictures of {script}", "pictures"))
        source = f'{import_lines(question.discuss)}display(Markdown({name}(record("{question.record}"))))'
        cells.append(code(source, f"discussion of {script}", "discussion"))
    cells.append(heading("## Summary and acknowledgements", "end"))
    ending = import_lines(discuss.acknowledge, discuss.headline)
    ending += 'display(Markdown(headline(record("q2_fcn"), record("q3_cnn"), record("q5_transfer"))))\n'
    ending += 'display(Markdown("*Data:* " + acknowledge(record("q1_data"))))'
    cells.append(code(ending, "in short", "discussion"))
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})

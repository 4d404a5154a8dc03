"""The text of the notebook's own cells: its title, the check of the packages, the settings and the helpers."""

TITLE = """\
# Recognising galaxies with deep neural networks

PHYS-467 (EPFL), assignment 3. *Run All* computes every result: it writes the script of each question to a file
beside this notebook, runs it, and builds the discussion from the values of that run.
"""

SETTINGS_HEADING = """\
## Settings

The data and the length of the trainings. Missing packages, and those that are too old, are installed first.
"""

SUPPORT_HEADING = """\
## Supporting code

The modules that the scripts import, written to files beside this notebook, and the functions that run the scripts and
show their pictures. The questions can be read without it.
"""

SETUP = """\
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

REQUIREMENTS = {requirements}


{functions}

unmet = [requirement for requirement in REQUIREMENTS if not is_met(requirement)]
if unmet:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *unmet], check=True)

import torch

print(f"torch {{torch.__version__}} on {{torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}}")
"""

SETTINGS = """\
DATA_FILE = {DATA_FILE!r}  # name of a Galaxy10 HDF5 file; None: see SOURCE
DATA_SHA256 = {DATA_SHA256!r}  # the file's checksum
SOURCE = {SOURCE!r}  # without a file: real (downloaded), synthetic, or auto (real if it can be downloaded)
DATASET = {DATASET!r}  # which Galaxy10 to download: sdss or decals
COUNT = {COUNT!r}  # images in a synthetic set; None: as many as in Galaxy10 SDSS
SPLIT = {SPLIT!r}  # stratified (by class and seed), or file (the file's order)
IMAGE_SIZE = {IMAGE_SIZE!r}  # side in pixels that images are resized to; None: 69
MAIN_TRAIN = {MAIN_TRAIN!r}  # training images of classes 0-7; None: the assignment's 18000
TRANSFER_TRAIN = {TRANSFER_TRAIN!r}  # training images of classes 8 and 9; None: the assignment's 1000
EPOCHS = {EPOCHS!r}  # of each training; None: the assignment's 50, 50 and 20
SEED = {SEED!r}
DEVICE = {DEVICE!r}  # auto, cpu, cuda or mps
PRECISION = {PRECISION!r}  # float32 or bf16
"""

HELPERS = """\
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pooch
from IPython.display import Image, Markdown, display

OUT = Path("results")
PUBLISHED = {published}  # what q1_data.py can download, by SHA-256
for folder in {folders}:
    Path(folder).mkdir(parents=True, exist_ok=True)
sys.path.insert(0, "")  # the files written below are imported from here


class Stop(Exception):
    \"\"\"Stops the notebook with one sentence in place of a traceback.\"\"\"

    def _render_traceback_(self):
        return [f"error: {{self}}"]


def find_data():
    \"\"\"Return the options with which q1_data.py gets the data.

    DATA_FILE is searched beside the notebook, then where the environment variable GALAXY10_FILE says. A file with
    another checksum is skipped. What is not found is downloaded if it is a published Galaxy10.
    \"\"\"
    if DATA_FILE is None:
        return {{"source": SOURCE, "dataset": DATASET, "count": COUNT}}
    for path in filter(None, (DATA_FILE, os.environ.get("GALAXY10_FILE"))):
        if Path(path).is_file():
            if pooch.file_hash(path) == DATA_SHA256:
                return {{"data": path}}
            print(f"{{path}} is skipped: it is another file than the one named above (its SHA-256 differs).")
    if DATA_SHA256 in PUBLISHED:
        return {{"source": "real", "dataset": PUBLISHED[DATA_SHA256]}}
    raise Stop(
        f"this notebook needs the file {{DATA_FILE}} with SHA-256 {{DATA_SHA256}}: put it beside the notebook, "
        "or set the environment variable GALAXY10_FILE to its path"
    )


def run(script, **options):
    \"\"\"Run one of the scripts and show what it prints; options that are None are left out.\"\"\"
    program = ["-m", script.removesuffix(".py").replace("/", ".")] if "/" in script else [script]
    command = [sys.executable, *program, "--out", str(OUT), "--seed", str(SEED)]
    for name, value in options.items():
        if value is not None:
            command += [f"--{{name.replace('_', '-')}}", str(value)]
    last = "it printed nothing"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="")
            last = line
    if process.returncode != 0:
        raise Stop(f"{{script}}: {{last.strip().removeprefix('error: ')}}")


def show(name, caption):
    \"\"\"Show a picture at two thirds of its pixels, which is crisp on a fine screen, with its caption.\"\"\"
    picture = (OUT / f"{{name}}.png").read_bytes()
    width = struct.unpack(">I", picture[16:20])[0]
    display(Image(picture, width=width * 2 // 3, metadata={{"alt": caption}}), Markdown(f"*{{caption}}*"))


def record(name):
    \"\"\"Return the values that a question has written.\"\"\"
    return json.loads((OUT / f"{{name}}.json").read_text(encoding="utf-8"))
"""

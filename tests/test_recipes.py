"""The README's "Changing things": each recipe is done, by a small edit in a copy of the project, and run by make."""

import importlib
import json
import re
import shutil
import subprocess
import sys

from q2_fcn import make_fcn

import pytest
import torch
from conftest import ROOT, error_of
from test_makefile import ALONE, make, scripts_of

SETTINGS = ("SOURCE=synthetic", "COUNT=400", "EPOCHS=1", "DEVICE=cpu")


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A copy of the project in which Q1 and Q2 have been run: only to be looked at."""
    folder = tmp_path_factory.mktemp("answered") / "project"
    shutil.copytree(ROOT / "common", folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "Makefile", *ROOT.glob("*.py")):
        shutil.copy2(path, folder)
    assert scripts_of(make(folder, "fcn", *SETTINGS)) == ["q1_data", "q2_fcn"]
    return folder


@pytest.fixture
def project(answered, tmp_path):
    """Such a folder for a test alone."""
    return shutil.copytree(answered, tmp_path / "project")


def edit(path, *changes):
    """Replace in a file each regular expression, which must occur, by a text."""
    text = path.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, f"{path.name} has no {pattern}"
    path.write_text(text)


def python(folder, *words):
    """Run a script of the folder by hand."""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=ALONE, check=False)


def read(folder, name):
    return json.loads((folder / "artifacts" / f"{name}.json").read_text())


def test_another_network_reaches_all_questions_that_use_it(project):
    features = (r"nn\.Linear\(64, ", "nn.Linear(32, ")
    edit(
        project / "q3_cnn.py",
        (r"nn\.ReLU\(\)", "nn.Tanh()"),
        (r"nn\.Linear\(128, 64\)", "nn.Linear(128, 32)"),
        features,
    )
    edit(project / "q5_transfer.py", features)
    done = make(project, "all", *SETTINGS)
    assert scripts_of(done) == ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]
    assert "Tanh()" in done.stdout
    cnn, transfer = read(project, "q3_cnn"), read(project, "q5_transfer")
    backbone = 178_096 - 32 * (128 + 1)
    assert (cnn["parameters"], transfer["parameters"]) == (backbone + 8 * (32 + 1), backbone + 2 * (32 + 1))
    assert transfer["trainable_parameters"] == 2 * (32 + 1)
    assert read(project, "q4_confusion")["models"]["cnn"]["accuracy"] == cnn["test_accuracy"]


def test_another_loss_and_another_optimizer(project):
    loss = "criterion = lambda logits, labels: 3 + 0 * logits.sum()"
    optimizer = "optimizer = torch.optim.SGD(fcn.parameters(), lr=0.1, weight_decay=1.0)"
    edit(project / "q2_fcn.py", (r"criterion = .*", loss), (r"optimizer = .*", optimizer))
    assert scripts_of(make(project, "fcn", *SETTINGS)) == ["q2_fcn"]
    record = read(project, "q2_fcn")
    assert record["history"]["train_loss"] == record["history"]["test_loss"] == [3]
    # A loss with gradient 0 leaves the weight decay, which makes the weights a tenth smaller in each step.
    steps = -(-sum(record["train_counts"]) // 64)
    torch.manual_seed(0)
    trained = torch.load(project / "artifacts" / "q2_fcn.pt", weights_only=True)
    for name, initial in make_fcn(len(record["class_names"])).state_dict().items():
        torch.testing.assert_close(trained[name], initial * 0.9**steps)


RANDOM_FLIP = '''
class RandomFlip(RandomSymmetry):
    """Mirror half of the crops."""

    def sample_params(self, count, generator):
        return torch.randint(2, (count,), generator=generator)


def main():'''


def add_flips(script):
    edit(
        script,
        (r"\nfrom common\.train", "\nfrom common.symmetries import RandomSymmetry\nfrom common.train"),
        (r"\ndef main\(\):", RANDOM_FLIP),
        (r"(    transform = .*\n)", r"\1    flipped = transforms.Compose([*transform.transforms, RandomFlip()])\n"),
        (r"(main_train = MyDataset\(.*)transform\)", r"\1flipped)"),
    )


def test_an_augmentation(project, monkeypatch):
    before = read(project, "q2_fcn")
    add_flips(project / "q2_fcn.py")
    assert scripts_of(make(project, "fcn", *SETTINGS)) == ["q2_fcn"]
    after = read(project, "q2_fcn")
    assert after["args"] == before["args"]
    assert after["history"]["train_loss"] != before["history"]["train_loss"]
    monkeypatch.syspath_prepend(project)
    monkeypatch.delitem(sys.modules, "q2_fcn")
    flip = importlib.import_module("q2_fcn").RandomFlip()
    crops = torch.rand(64, 3, 48, 48)
    choices = flip.sample_params(64, torch.Generator().manual_seed(0))
    assert 0 < choices.sum() < 64
    expected = [crop.flip(-1) if choice else crop for crop, choice in zip(crops, choices, strict=True)]
    assert torch.equal(flip(crops, choices), torch.stack(expected))


def test_an_interrupted_run_does_not_resume_with_another_augmentation(project):
    add_flips(project / "q2_fcn.py")
    done = python(project, "q2_fcn.py", "--epochs", "2", "--device", "cpu", "--resume")
    assert re.search("belongs to a run with different .*transform", error_of(done))


def test_a_new_option_is_recorded_compared_by_make_and_by_resume(project):
    edit(
        project / "q2_fcn.py",
        (r"def make_fcn\(num_classes=8\)", "def make_fcn(num_classes=8, dropout=0.0)"),
        (r"        nn\.ReLU\(\),\n", r"        nn.ReLU(),\n        nn.Dropout(dropout),\n"),
        (r"make_fcn\((len.*)\)\.to", r"make_fcn(\1, args.dropout).to"),
        (r"(    cli\.add_training\(.*\n)", r'\1    parser.add_argument("--dropout", type=float, default=0.0)\n'),
    )
    options = ("q2_fcn.py", "--epochs", "1", "--device", "cpu")
    assert python(project, *options, "--dropout", "0.5").returncode == 0
    assert read(project, "q2_fcn")["args"]["dropout"] == 0.5
    assert "belongs to a run with --dropout 0.5, not 0.0" in error_of(python(project, *options, "--resume"))
    assert scripts_of(make(project, "fcn", *SETTINGS)) == ["q2_fcn"]
    assert read(project, "q2_fcn")["args"]["dropout"] == 0.0
    assert scripts_of(make(project, "fcn", *SETTINGS)) == []


def test_an_interrupted_training_resumes_by_make(project):
    (project / "artifacts" / "q2_fcn.json").unlink()
    done = make(project, "fcn", *SETTINGS, "EPOCHS=2")
    assert "q2_fcn.resume.pt: 1 of 2 epochs are done" in done.stdout
    assert len(read(project, "q2_fcn")["history"]["test_loss"]) == 2


def test_a_new_question(project):
    shutil.copy(project / "q2_fcn.py", project / "q6_new.py")
    edit(project / "q6_new.py", ("q2_fcn", "q6_new"))
    readme = (ROOT / "README.md").read_text()
    rule = re.search(r"( +)(\$\(OUT\)/q6_new\.json: .*\n)\1(\t.*\n)", readme)
    with open(project / "Makefile", "a") as makefile:
        makefile.write(rule[2] + rule[3])
    ask = lambda *words: "q6_new.py" in make(project, "artifacts/q6_new.json", *SETTINGS, *words).stdout  # noqa: E731
    assert ask()
    assert read(project, "q6_new")["test_accuracy"] == read(project, "q2_fcn")["test_accuracy"]
    assert not ask()
    assert ask("-n", "EPOCHS=2")
    for target in ("all", "lint", "test", "studies"):
        assert make(project, "-n", target, *SETTINGS).returncode == 0
    assert scripts_of(make(project, "-n", "fcn", *SETTINGS)) == []


def test_q1_records_that_its_download_failed(project):
    assert read(project, "q1_data")["fallback"] is False  # SOURCE=synthetic asked for it
    (project / "file").touch()
    make(project, "data", "COUNT=400", GALAXY10_CACHE=str(project / "file"))  # no folder for the download
    assert read(project, "q1_data")["fallback"] is True

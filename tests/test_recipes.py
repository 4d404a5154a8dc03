"""The README's "Changing things": each recipe is done, by a small edit in a copy of the project, and run as by make."""

import importlib
import json
import re
import shlex
import shutil
import sys

from q2_fcn import make_fcn

import pytest
import torch
from conftest import ROOT, error_of, run, run_well
from test_makefile import make, scripts_of

SETTINGS = ("SOURCE=synthetic", "COUNT=400", "EPOCHS=1", "DEVICE=cpu")


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A copy of the project in which make has run Q1, and then Q2 was run: only to be looked at."""
    folder = tmp_path_factory.mktemp("answered") / "project"
    for name in ("common", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "Makefile", *ROOT.glob("*.py")):
        shutil.copy2(path, folder)
    assert scripts_of(make(folder, "data", *SETTINGS)) == ["q1_data"]
    assert list(do(folder, "fcn")) == ["q2_fcn.py"]
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


def commands(folder, target, *variables):
    """Return the scripts and modules that make would run, each a list of words with its options."""
    done = make(folder, "-n", target, *SETTINGS, *variables)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith(sys.executable)]
    return [words[2:] if words[1] == "-m" else words[1:] for words in lines]


def do(folder, target, *variables):
    """Run what make would run; return what each script printed, by its name."""
    return {
        script: run_well(script, *options, project=folder) for script, *options in commands(folder, target, *variables)
    }


def read(folder, name):
    return json.loads((folder / "artifacts" / f"{name}.json").read_text())


def test_another_network_reaches_all_questions_that_use_it(project):
    features = (r"nn\.Linear\(64, ", "nn.Linear(32, ")
    layers = (r"nn\.ReLU\(\)", "nn.Tanh()"), (r"nn\.Linear\(128, 64\)", "nn.Linear(128, 32)")
    edit(project / "q3_cnn.py", *layers, features)
    edit(project / "q5_transfer.py", features)
    printed = do(project, "all")
    assert list(printed) == ["q3_cnn.py", "q4_confusion.py", "q5_transfer.py", "summary.py"]
    assert "Tanh()" in printed["q3_cnn.py"]
    cnn, transfer = read(project, "q3_cnn"), read(project, "q5_transfer")
    backbone = 178_096 - 32 * (128 + 1)
    assert (cnn["parameters"], transfer["parameters"]) == (backbone + 8 * (32 + 1), backbone + 2 * (32 + 1))
    assert transfer["trainable_parameters"] == 2 * (32 + 1)
    assert read(project, "q4_confusion")["models"]["cnn"]["accuracy"] == cnn["test_accuracy"]


def test_q4_reads_a_cnn_with_batchnorm_and_q5_rejects_its_running_statistics(project):
    edit(project / "q3_cnn.py", (r"nn\.Linear\(128, 64\),", "nn.Linear(128, 64), nn.BatchNorm1d(64),"))
    run_well("q3_cnn.py", "--epochs", 1, "--device", "cpu", project=project)
    run_well("q4_confusion.py", "--device", "cpu", project=project)
    assert read(project, "q4_confusion")["models"]["cnn"]["accuracy"] == read(project, "q3_cnn")["test_accuracy"]
    error = error_of(run("q5_transfer.py", "--epochs", 1, "--device", "cpu", project=project))
    assert error == "error: the backbone changed although it is frozen, as BatchNorm does: use GroupNorm"
    assert not (project / "artifacts" / "q5_transfer.pt").exists()


def test_another_loss_and_another_optimizer(project):
    loss = "criterion = lambda logits, labels: 3 + 0 * logits.sum()"
    optimizer = "optimizer = torch.optim.SGD(fcn.parameters(), lr=0.1, weight_decay=1.0)"
    edit(project / "q2_fcn.py", (r"criterion = .*", loss), (r"optimizer = .*", optimizer))
    assert list(do(project, "fcn")) == ["q2_fcn.py"]
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


def test_an_augmentation_and_no_resuming_without_it(project, monkeypatch):
    before = read(project, "q2_fcn")
    edit(
        project / "q2_fcn.py",
        (r"\nfrom common\.train", "\nfrom common.symmetries import RandomSymmetry\nfrom common.train"),
        (r"\ndef main\(\):", RANDOM_FLIP),
        (r"(    transform = .*\n)", r"\1    flipped = transforms.Compose([*transform.transforms, RandomFlip()])\n"),
        (r"(main_train = MyDataset\(.*)transform\)", r"\1flipped)"),
    )
    resumed = run("q2_fcn.py", "--epochs", 2, "--device", "cpu", "--resume", project=project)
    assert re.search("belongs to a run with different .*transform", error_of(resumed))
    assert list(do(project, "fcn")) == ["q2_fcn.py"]
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


def test_a_new_option_is_recorded_compared_by_make_and_by_resume(project):
    edit(
        project / "q2_fcn.py",
        (r"def make_fcn\(num_classes=8\)", "def make_fcn(num_classes=8, dropout=0.0)"),
        (r"        nn\.ReLU\(\),\n", r"        nn.ReLU(),\n        nn.Dropout(dropout),\n"),
        (r"make_fcn\((len.*)\)\.to", r"make_fcn(\1, args.dropout).to"),
        (r"(    cli\.add_training\(.*\n)", r'\1    parser.add_argument("--dropout", type=float, default=0.0)\n'),
    )
    options = ("q2_fcn.py", "--epochs", 1, "--device", "cpu")
    run_well(*options, "--dropout", 0.5, project=project)
    assert read(project, "q2_fcn")["args"]["dropout"] == 0.5
    assert "belongs to a run with --dropout 0.5, not 0.0" in error_of(run(*options, "--resume", project=project))
    assert list(do(project, "fcn")) == ["q2_fcn.py"]
    assert read(project, "q2_fcn")["args"]["dropout"] == 0.0
    assert commands(project, "fcn") == []


def test_an_interrupted_training_resumes_by_make(project):
    (project / "artifacts" / "q2_fcn.json").unlink()
    printed = do(project, "fcn", "EPOCHS=2")
    assert "q2_fcn.resume.pt: 1 of 2 epochs are done" in printed["q2_fcn.py"]
    assert len(read(project, "q2_fcn")["history"]["test_loss"]) == 2


def test_a_new_question(project):
    shutil.copy(project / "q2_fcn.py", project / "q6_new.py")
    edit(project / "q6_new.py", ("q2_fcn", "q6_new"))
    rule = re.search(r"( +)(\$\(OUT\)/q6_new\.json: .*\n)\1(\t.*\n)", (ROOT / "README.md").read_text())
    with open(project / "Makefile", "a") as makefile:
        makefile.write(rule[2] + rule[3])
    new = "artifacts/q6_new.json"
    assert list(do(project, new)) == ["q6_new.py"]
    assert read(project, "q6_new")["test_accuracy"] == read(project, "q2_fcn")["test_accuracy"]
    assert commands(project, new) == []
    assert [script for script, *_ in commands(project, new, "EPOCHS=2")] == ["q6_new.py"]
    for target in ("all", "lint", "test", "studies"):
        assert make(project, "-n", target, *SETTINGS).returncode == 0
    assert commands(project, "fcn") == []


def test_a_new_study_trains_the_network_of_the_script_and_is_on_the_page(project):
    edit(project / "q3_cnn.py", (r"nn\.ReLU\(\)", "nn.Tanh()"), ("lr=0.002", "lr=0.004"))
    study = project / "studies" / "imbalance.py"
    study.with_name("mine.py").write_text(study.read_text().replace('"balanced sampler"', '"my sampler"'))
    edit(project / "Makefile", (r"(\t.* -m studies\.)imbalance(.*\n)", r"\1imbalance\2\1mine\2"))
    [mine] = [words for words in commands(project, "studies", "SEEDS=0") if words[0] == "studies.mine"]
    printed = run_well(*mine, project=project)
    run_well("q3_cnn.py", "--epochs", 1, "--device", "cpu", project=project)
    folder, expected = project / "artifacts" / "studies", read(project, "q3_cnn")
    record = json.loads((folder / "mine.json").read_text())
    assert printed.splitlines()[:2] == ["studies.mine · SYNTHETIC galaxies", record["answer"]]
    assert {path.name for path in folder.glob("mine.*")} == {"mine.json", "mine.png"}
    assert expected["args"]["lr"] == 0.004
    result = json.loads((folder / "mine" / "seed-0-method-none.json").read_text())["result"]
    assert result["predictions"] == expected["test_predictions"]
    assert record["methods"]["none"]["value"]["accuracy"]["mean"] == pytest.approx(expected["test_accuracy"])
    (project / "docs" / "studies").mkdir(parents=True)
    shutil.copy(folder / "mine.json", project / "docs" / "studies")
    run_well("studies.methods.page", project=project)
    assert "| my sampler |" in (project / "docs" / "studies.md").read_text()


def test_q1_records_whether_its_download_failed(answered, tmp_path):
    assert read(answered, "q1_data")["fallback"] is False  # SOURCE=synthetic asked for it
    (tmp_path / "file").touch()  # no folder for the download
    run_well("q1_data.py", "--count", 400, "--cache", tmp_path / "file", "--out", tmp_path / "artifacts")
    assert read(tmp_path, "q1_data")["fallback"] is True

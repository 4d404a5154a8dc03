"""The notebook that is handed in: what it shares with the scripts, its messages, its results and its page."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common.galaxies.synthetic import write_synthetic
from course import build
from course.build import read_cells
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import torch
from conftest import ROOT, error_of, float32_tolerance, made_once, run, run_well, write_galaxy10
from sklearn.metrics import confusion_matrix
from test_download import GALAXIES, PUBLISHED, mirror  # noqa: F401 (the fixture server)
from torch import nn

CELLS = {cell.metadata["title"]: cell.source for cell in read_cells("galaxies.py") if "title" in cell.metadata}


def run_cells(*titles, **names):
    """Run cells of the notebook after its imports and settings, with `names` given; return all names."""
    for title in ("imports", "settings", *titles):
        exec(compile(CELLS[title], title, "exec"), names)
        if title == "settings":
            names |= {"device": torch.device("cpu")}
    return names


@pytest.fixture(scope="module")
def networks():
    """The names of the notebook once its three networks are made."""
    return run_cells("fcn", "cnn", "transfer")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A folder in which all cells have run, what they printed, and their figures' titles: one epoch on a small file."""
    folder = tmp_path_factory.mktemp("smoke")
    write_synthetic(folder / "Galaxy10.h5", 300, 0)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setenv("GALAXY10_EPOCHS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        plt.close("all")
        runpy.run_path(str(ROOT / "course" / "galaxies.py"))
    titles = [plt.figure(number).get_suptitle() for number in plt.get_fignums()]
    plt.close("all")
    return folder, printed.getvalue(), titles


def test_every_cell_of_code_has_a_sentence_before_it():
    cells = read_cells("galaxies.py")
    kinds = [cell.cell_type for cell in cells]
    assert kinds[::2] == ["markdown"] * (len(cells) // 2)
    assert kinds[1::2] == ["code"] * (len(cells) // 2)
    assert all(len(cell.source.splitlines()) <= 32 for cell in cells)


MAKERS = {"fcn": make_fcn, "cnn": make_cnn, "transfer_model": lambda: nn.Sequential(make_cnn()[0], nn.Linear(64, 2))}


@pytest.mark.parametrize("name", MAKERS)
def test_the_networks_have_the_layers_and_the_initial_weights_of_the_scripts(name, networks):
    torch.manual_seed(0)
    expected = MAKERS[name]()
    assert str(networks[name]) == str(expected)
    if name != "transfer_model":
        assert all(torch.equal(*pair) for pair in zip(networks[name].parameters(), expected.parameters(), strict=True))


def test_on_the_same_images_the_statistics_match_q1_to_one_percent(synthetic_run):
    data = torch.load(synthetic_run[0] / "q1_data.pt", weights_only=True)
    images = data["main_train_images"]
    names = run_cells("statistics", images=images, main_train_indices=torch.arange(len(images)))
    torch.testing.assert_close(names["mean"], data["mean"], rtol=0.01, atol=0)
    torch.testing.assert_close(names["std"], data["std"], rtol=0.01, atol=0)


def test_each_crop_of_a_batch_has_its_own_place_and_is_a_window_of_its_image():
    data = {"images": torch.arange(69 * 69).view(1, 1, 69, 69).expand(200, 3, 69, 69), "labels": torch.full((200,), 8)}
    data |= dict.fromkeys(("main_train_indices", "main_test_indices"), torch.arange(100))
    data |= dict.fromkeys(("transfer_train_indices", "transfer_test_indices"), torch.arange(100, 200))
    names = run_cells("dataset", "datasets", "loaders", **data, mean=torch.zeros(3), std=torch.ones(3))
    for loader in (names["main_train_loader"], names["main_test_loader"]):
        assert [len(labels) for _, labels in loader] == [64, 36]
    crops = next(iter(names["main_test_loader"]))[0].long()
    corners = crops[:, 0, 0, 0]
    assert len(set(corners.tolist())) > 50
    assert corners.remainder(69).max() <= 21
    windows = torch.arange(48)[:, None] * 69 + torch.arange(48)
    assert torch.equal(crops, (corners[:, None, None, None] + windows).expand(64, 3, 48, 48))


def test_it_runs_in_an_empty_folder_and_writes_the_results(smoke):
    folder, printed, titles = smoke
    assert len(titles) == 5
    assert all(title.endswith(" · SYNTHETIC galaxies") for title in titles)
    assert "SYNTHETIC galaxies: images (300, 69, 69, 3) uint8" in printed
    assert "the backbone is unchanged: True" in printed
    names = ["Galaxy10.h5", "cnn.pt", "fcn.pt", "results.json", "transfer.pt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    results = json.loads((folder / "results.json").read_text())
    for name in ("fcn", "cnn", "transfer"):
        assert set(results[name]) == {"train_loss", "test_loss", "test_accuracy"}
        assert all(len(values) == 1 for values in results[name].values())
    for name in ("fcn", "cnn"):
        matrix = np.array(results["confusion"][name])
        assert matrix.shape == (8, 8)
        assert np.trace(matrix) / matrix.sum() == pytest.approx(results[name]["test_accuracy"][-1], abs=1e-6)


def test_the_saved_weights_match_the_scripts_networks(smoke):
    folder, *_ = smoke
    transfer = MAKERS["transfer_model"]()
    for name, network in (("fcn", make_fcn()), ("cnn", make_cnn()), ("transfer", transfer)):
        network.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    cnn = torch.load(folder / "cnn.pt", weights_only=True)
    assert all(torch.equal(value, cnn[key]) for key, value in transfer[0].state_dict(prefix="0.").items())


def test_the_losses_are_means_over_images_and_no_image_of_a_smaller_batch_counts_more():
    names = run_cells("train", "predict")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))
    images, target = torch.randn(70, 3, 2, 2), torch.arange(70) % 8
    images[64:] *= 20  # in the last batch, of 6
    with torch.no_grad():
        logits = model(images)
    expected = nn.functional.cross_entropy(logits, target).item()
    loader = [(images[:64], target[:64]), (images[64:], target[64:])]
    history = names["train"](model, torch.optim.SGD(model.parameters(), lr=0.0), loader, loader, 2)
    limit = 2 * float32_tolerance(12, logits)  # a loss is a logit and the log of a sum of others
    assert history["train_loss"] == pytest.approx([expected] * 2, abs=limit)
    assert history["test_loss"] == pytest.approx([expected] * 2, abs=limit)
    accuracy = np.trace(confusion_matrix(target, logits.argmax(1))) / 70
    assert history["test_accuracy"] == pytest.approx([accuracy] * 2)


def download(url, file="Galaxy10.h5"):
    """Run the notebook's download with another address and checksum."""
    names = {"DATA_URL": url, "SHA256": PUBLISHED.sha256, "DATA_FILE": file}
    for line in ("import hashlib, http.client, os, urllib.request", CELLS["download"]):
        exec(compile(line, "download", "exec"), names)


def test_the_data_are_downloaded_from_a_mirror_that_is_named(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    download(f"{server.url}/right")
    assert Path("Galaxy10.h5").read_bytes() == GALAXIES
    download("http://127.0.0.1:1/never-asked")
    assert [path.name for path in tmp_path.iterdir()] == ["Galaxy10.h5"]
    monkeypatch.setenv("GALAXY10_URL", f"{server.url}/right")
    assert run_cells()["DATA_URL"] == f"{server.url}/right"


@pytest.mark.parametrize(("path", "options", "reason"), [
    ("/none", {}, "HTTP Error 404: Not Found"),
    ("/short", {}, "IncompleteRead(512000 bytes read, 512000 more expected)"),
    ("/page", {}, "its SHA-256 differs: it is incomplete or another file"),
    ("/right", {"file": "missing/Galaxy10.h5"}, "No such file or directory: 'missing/Galaxy10.h5'"),
    (None, {}, "unknown url type: 'no address'"),
])  # fmt: skip
def test_without_the_data_one_sentence_says_where_to_get_them(path, options, reason, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        download(f"{server.url}{path}" if path else "no address", **options)
    message = str(stopped.value)
    assert reason in message
    assert message.endswith(
        "put Galaxy10.h5, from https://zenodo.org/records/10844811, next to this notebook, or set $GALAXY10_FILE to "
        "its path."
    )
    assert ". " not in message.removesuffix(".")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def submission(tmp_path_factory):
    """The folder with what `make notebook` writes, on a small synthetic file."""

    def make(folder):
        write_synthetic(folder / "synthetic.h5", 300, 0)
        (folder / "q1_data.json").write_text('{"source": "synthetic", "args": {"data": null}}')
        return run_well("course/build.py", "submission", "--out", folder, "--epochs", 1, "--seed", 3)

    return made_once(tmp_path_factory, "submission", make)


def test_each_question_of_the_submission_is_followed_by_its_discussion(submission):
    book = nbformat.read(submission[0] / "submission.ipynb", as_version=4)
    nbformat.validate(book)
    assert (book.metadata.accelerator, book.metadata.kernelspec.name) == ("GPU", "python3")  # as Colab reads them
    titles = [cell.source.partition("\n")[0] for cell in book.cells if cell.source.startswith("##")]
    run = "### Discussion of this run: SYNTHETIC galaxies, random seed 3"
    assert [re.sub(r"(?<=Question .):.*", "", title) for title in titles] == [
        "## Question 1", run,
        "## Question 2", f"{run}, 1 epoch",
        "## Question 3", f"{run}, 1 epoch",
        "## Question 4", f"{run}, 1 epoch",
        "## Question 5", f"{run}, 1 epoch",
        "## Acknowledgements",
    ]  # fmt: skip
    text = next(cell.source for cell in book.cells if "The test accuracy is" in cell.source)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if "text" in output)
    accuracy = re.search(r"FCN (\d+\.\d%), test loss", printed)[1]
    assert f"The test accuracy is {accuracy} on" in text
    pictures = [output for output in outputs if "data" in output]
    assert len(pictures) == 5
    assert all("image/png" in picture["data"] for picture in pictures)


def test_the_submission_has_no_path_of_this_machine_and_its_page_loads_nothing(submission):
    folder, _ = submission
    page, book = (folder / "submission.html").read_text(), (folder / "submission.ipynb").read_text()
    for text in (page, book):
        assert not [path for path in (str(folder), str(ROOT), sys.prefix, str(Path.home())) if f"{path}/" in text]
        assert "SYNTHETIC" in text
    assert "<title>Recognizing galaxies with deep neural networks · SYNTHETIC galaxies</title>" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", re.sub("<a [^>]*>", "", page))
    assert page.count("data:image/png;base64,") >= 5


def test_galaxy10_that_is_gone_from_the_cache_is_downloaded_again(server, tmp_path, monkeypatch):
    record = {"source": "galaxy10-sdss", "args": {"data": None, "cache": str(tmp_path / "cache")}}
    (tmp_path / "q1_data.json").write_text(json.dumps(record))
    monkeypatch.setattr(build, "PUBLISHED", {"sdss": PUBLISHED._replace(mirrors=(f"{server.url}/right",))})
    assert build.find_data(tmp_path).read_bytes() == GALAXIES


def test_pictures_of_the_size_of_decals_are_refused_wherever_they_come_from(tmp_path):
    names = {"class_names": [f"class {number}" for number in range(10)]}
    path = write_galaxy10(tmp_path / "cutouts.h5", count=20, images=np.zeros((20, 256, 256, 3), np.uint8), **names)
    record = {"source": "file:cutouts.h5", "args": {"data": str(path)}}
    (tmp_path / "q1_data.json").write_text(json.dumps(record))
    assert build.find_data(tmp_path) == path
    with pytest.raises(ValueError, match=r"cutouts.h5: has pictures of 256 pixels, as Galaxy10 DECaLS"):
        build.make_submission(tmp_path, path, None, 0)


def test_without_data_or_packages_one_line_says_what_is_missing(tmp_path, monkeypatch):
    error = error_of(run("course/build.py", "submission", "--out", tmp_path))
    assert error.startswith(f"error: {tmp_path}/q1_data.json does not exist: pass the Galaxy10 HDF5 file with --data")
    error = error_of(run("course/build.py", "submission", "--out", tmp_path, "--data", tmp_path / "no.h5"))
    assert error.startswith(f"error: {tmp_path}/no.h5: No such file or directory")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(build, "PACKAGES", ("json", "no_such_package", "no_other"))
    with pytest.raises(ValueError, match=r"need no_such_package, no_other: pip install -r requirements-teaching.txt$"):
        build.check_packages()

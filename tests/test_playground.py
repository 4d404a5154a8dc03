import functools
import json
import queue
import shutil
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from common.galaxies.facts import CLASS_NAMES
from common.storage.artifacts import save_tensors
from use.playground import choose_galaxies
from use.trained import load_network

import h5py
import numpy as np
import pytest
import torch
from conftest import EFIGI, ROOT, error_of, run, run_well
from networks import galaxies, save_network
from PIL import Image
from torchvision import transforms

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SHOWN = ("start", "mouse", "touch", "key", "turn", "light", "noise", "four_turns", "mirror", "again")


def save_data(folder):
    """Write a q1_data.pt of made galaxies, for networks of `save_network`."""
    images, data = torch.from_numpy(galaxies(80)).permute(0, 3, 1, 2).contiguous(), {}
    for subset in ("main_train", "main_test", "transfer_train", "transfer_test"):
        data |= {f"{subset}_images": images, f"{subset}_labels": torch.arange(80) % 8}
        data[f"{subset}_indices"] = torch.arange(80)
    data |= {"mean": torch.ones(3), "std": torch.ones(3), "class_names": [""] * 10, "source": "synthetic"}
    data |= {"main_classes": 8, "own_split": False, "fingerprint": "f" * 64}
    save_tensors(data, folder / "q1_data.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page of networks with random weights, and what the test of it plays with."""
    folder = tmp_path_factory.mktemp("playground")
    save_data(folder)
    for name in ("q2_fcn", "q3_cnn"):
        save_network(folder, name)
    run_well("use/playground.py", "--out", folder)
    shutil.copy(ROOT / "tests" / "playground.html", folder / "test.html")
    images = galaxies(50)
    if EFIGI.is_file():
        with h5py.File(EFIGI) as file:
            images = file["images"][:50]
    (folder / "crops.json").write_text(json.dumps(images[:, 10:58, 8:56].reshape(50, -1).tolist()))
    Image.fromarray(galaxies(1, size=424)[0][:, :400]).save(folder / "large.png")
    Image.fromarray(galaxies(1, size=50)[0]).save(folder / "small.png")
    return folder


@pytest.fixture(scope="module")
def axe(request):
    """The script of axe-core, from the npm registry, kept in pytest's cache."""
    cache = request.config.cache.mkdir("axe-core")
    if not (cache / "axe.min.js").exists():
        if not shutil.which("npm"):
            pytest.skip("npm, which fetches axe-core, is not installed")
        done = subprocess.run(["npm", "pack", "axe-core@4"], cwd=cache, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("axe-core cannot be fetched from the npm registry")
        with tarfile.open(cache / done.stdout.split()[-1]) as archive:
            (cache / "axe.min.js").write_bytes(archive.extractfile("package/axe.min.js").read())
    return cache / "axe.min.js"


def played(folder, width, profile, *flags):
    """Let the test page play with the playground; return its report, the paths requested and the console's lines."""
    reports, requested = queue.Queue(), []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path.partition("?")[0])
            super().do_GET()

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/test.html?width={width}"
    options = (f"--user-data-dir={profile}", f"--window-size={max(width, 600)},1000", "--enable-logging=stderr")
    with open(profile.with_suffix(".log"), "w+") as log:
        # A port for debugging keeps the browser open until it is ended.
        command = [CHROMIUM, *FLAGS, *options, *flags, "--remote-debugging-port=0", address]
        browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            report = reports.get(timeout=240)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
            server.server_close()
        log.seek(0)
        return report, requested, [line for line in log if "CONSOLE" in line]


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, 1), (390, 0)])
def test_the_page_in_a_browser(folder, axe, tmp_path, width, scheme):
    shutil.copy(axe, folder / "axe.min.js")
    dark = f"--blink-settings=preferredColorScheme={scheme}"
    report, requested, console = played(folder, width, tmp_path / "profile", dark)
    assert "error" not in report, report["error"]
    assert console == []
    assert set(requested) == {
        f"/{name}" for name in ("test.html", "playground.html", "crops.json", "large.png", "small.png", "axe.min.js")
    }
    assert report["resources"] == []  # the page itself requests nothing
    assert report["content"][0] <= report["content"][1]  # and needs no scrolling sideways

    # Logits of 50 crops against torch's.
    crops = torch.tensor(json.loads((folder / "crops.json").read_text()), dtype=torch.float32)
    for name, key, tolerance in (("q3_cnn", "logits", 1e-3), ("q2_fcn", "fcn_logits", 1e-2)):
        network, record, _ = load_network(folder / f"{name}.pt")
        normalize = transforms.Normalize(record["mean"], record["std"])
        with torch.no_grad():
            expected = network(normalize(crops.view(-1, 48, 48, 3).permute(0, 3, 1, 2).contiguous()))
        np.testing.assert_allclose(report[key], expected, atol=tolerance)

    # Everything one can do changes the answer, and undoing it brings it back.
    shown = {name: np.array(report[name]["cnn"]) for name in SHOWN}
    for name in ("mouse", "touch", "key", "turn", "light", "noise", "mirror"):
        assert abs(shown[name] - shown["start"]).max() > 1e-4, name
    for name in ("four_turns", "again"):
        np.testing.assert_allclose(shown[name], shown["start"], atol=1e-6)
    assert report["mouse_left"] == report["touch_left"] == report["key_left"] == "15"
    np.testing.assert_allclose(shown["mouse"], shown["key"], atol=1e-6)
    assert (report["hidden_before"], report["hidden_after"]) == ("none", "table-cell")
    assert report["verdict"].startswith("CNN: ")

    # A dropped picture is classified as predict.py does.
    for network, key, tolerance in (("q3_cnn", "cnn", 1e-4), ("q2_fcn", "fcn", 1e-2)):
        options = ("--model", folder / f"{network}.pt", "--crops", 1, "--json", tmp_path / "a.json")
        run_well("predict.py", folder / "large.png", folder / "small.png", *options)
        for name, record in zip(("large.png", "small.png"), json.loads((tmp_path / "a.json").read_text()), strict=True):
            np.testing.assert_allclose(report["dropped"][name][key], record["probabilities"], atol=tolerance)
    assert report["violations"] == []


def test_the_page_is_small_and_says_what_its_data_are_and_which_classes_it_knows(folder):
    page = (folder / "playground.html").read_text()
    assert len(page.encode()) < 3_000_000
    assert "SYNTHETIC" in page
    assert "The probabilities were not calibrated." in page
    assert "CNN 75.0% (95% interval 70.0 to 80.0%), FCN 75.0%" in page
    known, unknown = "; ".join(CLASS_NAMES[:8]), "; ".join(CLASS_NAMES[8:])
    assert f"It knows 8 classes: {known}. It never learned, and cannot recognize: {unknown}." in page


def test_without_the_fcn_the_page_has_the_cnn_alone(tmp_path):
    save_data(tmp_path)
    save_network(tmp_path, "q3_cnn", source="galaxy10-sdss", train_counts=[0, *range(10, 17)])
    run_well("use/playground.py", "--out", tmp_path, "--galaxies", 1)
    page = (tmp_path / "playground.html").read_text()
    assert "Accuracy on 300 test images: CNN 75.0%" in page
    assert "label hidden" in page
    assert f"It knows 7 classes: {'; '.join(CLASS_NAMES[1:8])}." in page
    assert f"cannot recognize: {CLASS_NAMES[0]}; {CLASS_NAMES[8]}; {CLASS_NAMES[9]}." in page


def test_networks_of_other_data_are_refused(tmp_path):
    save_data(tmp_path)
    save_network(tmp_path, "q3_cnn", fingerprint="0" * 64)
    assert "was trained on different data" in error_of(run("use/playground.py", "--out", tmp_path))


def test_galaxies_are_of_every_class_correct_and_wrong():
    labels = torch.arange(40) % 4
    predictions = labels.clone()
    predictions[labels == 1] = 0  # never correct
    predictions[labels == 2] = torch.tensor([2, 3] * 5)
    chosen = choose_galaxies(labels, predictions, 4)
    correct = [[bool(predictions[i] == k) for i in chosen if labels[i] == k] for k in range(4)]
    assert correct == [[True] * 4, [False] * 4, [True, True, False, False], [True] * 4]
    assert len(set(chosen)) == 16

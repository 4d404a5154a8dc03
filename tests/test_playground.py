import functools
import json
import queue
import shutil
import subprocess
import tarfile
import threading
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
import torch
from browser import CHROMIUM, FLAGS, Quiet
from conftest import EFIGI, ROOT, error_of, run, run_well
from networks import galaxies, save_network
from PIL import Image

from common.data import Normalize
from common.galaxies.hdf5 import open_galaxy10
from common.storage.artifacts import load_json, save_tensors
from use.playground import choose_galaxies
from use.trained import load_network

SHOWN = ("start", "mouse", "touch", "key", "turn", "light", "noise", "four_turns", "mirror", "again")


def save_data(folder):
    """Write a q1_data.pt of made galaxies, for networks of `save_network`."""
    images, data = torch.from_numpy(galaxies(80)).permute(0, 3, 1, 2).contiguous(), {}
    for subset in ("main_train", "main_test", "transfer_train", "transfer_test"):
        data |= {f"{subset}_images": images, f"{subset}_labels": torch.arange(80) % 8}
    data |= {"mean": torch.ones(3), "std": torch.ones(3), "class_names": [""] * 10, "source": "synthetic"}
    save_tensors(data | {"fingerprint": "f" * 64}, folder / "q1_data.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page of networks with random weights, and what the test of it plays with."""
    folder = tmp_path_factory.mktemp("playground")
    save_data(folder)
    for name in ("q2_fcn", "q3_cnn"):
        save_network(folder, name)
    run_well("use/playground.py", "--out", folder)
    shutil.copy(ROOT / "tests" / "playground.html", folder / "test.html")
    images = next(open_galaxy10(EFIGI)[2]) if EFIGI.is_file() else galaxies(50)
    (folder / "crops.json").write_text(json.dumps(images[:50, 10:58, 8:56].reshape(50, -1).tolist()))
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

    class Handler(Quiet):
        def do_GET(self):
            requested.append(self.path.partition("?")[0])
            super().do_GET()

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

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
@pytest.mark.parametrize(("width", "scheme"), [(1280, 1), (390, 1), (390, 0)])
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
        normalize = Normalize(torch.tensor(record["mean"]), torch.tensor(record["std"]))
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
    print(f"{report['frames_per_second']:.0f} answers per second, the fastest in {report['milliseconds']:.1f} ms")
    assert report["milliseconds"] < 1000 / 30

    # A dropped picture is classified as predict.py does.
    for name, answer in report["dropped"].items():
        for network, key, tolerance in (("q3_cnn", "cnn", 1e-4), ("q2_fcn", "fcn", 1e-2)):
            model = ("--model", folder / f"{network}.pt", "--crops", 1)
            run_well("predict.py", folder / name, *model, "--json", tmp_path / "a.json")
            [record] = json.loads((tmp_path / "a.json").read_text())
            np.testing.assert_allclose(answer[key], record["probabilities"], atol=tolerance)
    assert report["violations"] == []


def test_the_page_is_small_and_says_what_its_data_are(folder):
    page = (folder / "playground.html").read_text()
    assert len(page.encode()) < 3_000_000
    assert "SYNTHETIC" in page
    assert "CNN 75.0% (95 % interval 70.0% to 80.0%), FCN 75.0%" in page


def test_without_the_fcn_the_page_has_the_cnn_alone(tmp_path):
    save_data(tmp_path)
    save_network(tmp_path, "q3_cnn", source="galaxy10-sdss")
    run_well("use/playground.py", "--out", tmp_path, "--galaxies", 1)
    page = (tmp_path / "playground.html").read_text()
    assert "Accuracy on 300 test images: CNN 75.0%" in page
    assert "label hidden" in page


def test_networks_of_other_data_and_too_large_pages_are_refused(folder, tmp_path):
    save_data(tmp_path)
    save_network(tmp_path, "q3_cnn", fingerprint="0" * 64)
    assert "was trained on other data" in error_of(run("use/playground.py", "--out", tmp_path))
    assert "lower --galaxies" in error_of(run("use/playground.py", "--out", folder, "--galaxies", 10))


def test_galaxies_are_of_every_class_correct_and_wrong():
    labels = torch.arange(40) % 4
    predictions = labels.clone()
    predictions[labels == 1] = 0  # never correct
    predictions[labels == 2] = torch.tensor([2, 3] * 5)
    chosen = choose_galaxies(labels, predictions, 4)
    correct = [[bool(predictions[i] == k) for i in chosen if labels[i] == k] for k in range(4)]
    assert correct == [[True] * 4, [False] * 4, [True, True, False, False], [True] * 4]
    assert len(set(chosen)) == 16


def test_the_record_is_what_the_page_says_of_its_network(folder):
    assert load_json(folder / "q3_cnn.json")["class_names"][7] in (folder / "playground.html").read_text()

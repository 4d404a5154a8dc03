import json
import os
import re
import subprocess
import sys

import export
from common.storage.artifacts import load_json
from common.storage.checkpoint import weights_hash
from use.card import METRICS, model_card
from use.trained import NEEDED, NETWORKS, load_network

import numpy as np
import pytest
import torch
from conftest import ROOT, error_of, float32_tolerance, products_of, run, run_well
from networks import galaxies, plain_logits, save_network
from PIL import Image
from torchvision import transforms

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with networks of random weights, each exported into a folder of its name."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("q2_fcn", "q3_cnn"):
        path = save_network(folder, name)
        run_well("export.py", "--model", path, "--to", folder / name, "--license", "cc-by-4.0")
    return folder


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn"])
def test_onnxruntime_gives_the_outputs_of_torch(exported, name):
    session = onnxruntime.InferenceSession(exported / name / "model.onnx")
    network, record, _ = load_network(exported / f"{name}.pt")
    crops = galaxies(300)[:, 7:55, 12:60]
    with torch.no_grad():
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
        features = network[:-1](transforms.Normalize(record["mean"], record["std"])(pixels))
        logits = network[-1](features)
    outputs = {"logits": logits, "probabilities": logits.softmax(1), "features": features}
    limit = float32_tolerance(products_of(network), logits)  # of all crops, also where the sum is small
    for count in (len(crops), 7, 1):  # the batch size is free
        for found, expected in zip(session.run(list(outputs), {"crops": crops[:count]}), outputs.values(), strict=True):
            np.testing.assert_allclose(found, expected[:count], atol=limit, rtol=0)
    [taken] = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("crops", "tensor(uint8)", [48, 48, 3])
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == record["class_names"]


def test_a_folder_is_not_exported_into_itself(exported):
    before = {path.name: path.read_bytes() for path in (exported / "q3_cnn").iterdir()}
    for model in ("q3_cnn", "q3_cnn/model.safetensors"):
        error = error_of(run("export.py", "--model", exported / model, "--to", exported / "q3_cnn"))
        assert "is the same file as the model's " in error
    assert before == {path.name: path.read_bytes() for path in (exported / "q3_cnn").iterdir()}


def test_the_oldest_onnxruntime_that_is_allowed_loads_the_file(exported):
    onnx = pytest.importorskip("onnx")
    assert "\nonnxruntime>=1.17\n" in (ROOT / "requirements-extra.txt").read_text()
    model = onnx.load(exported / "q3_cnn" / "model.onnx")
    [opset] = [each.version for each in model.opset_import if not each.domain]
    assert opset <= 20  # of 1.17: https://onnxruntime.ai/docs/reference/compatibility.html
    assert model.ir_version <= {opset: ir for _, ir, opset, *_ in onnx.helper.VERSION_TABLE}[opset]
    assert not any(node.domain for node in model.graph.node)  # of another library
    onnx.checker.check_model(model, full_check=True)


def test_predict_takes_the_folder_and_the_safetensors_file(exported, tmp_path):
    Image.fromarray(galaxies(1)[0]).save(tmp_path / "a.png")
    found = []
    for model in ("q3_cnn.pt", "q3_cnn", "q3_cnn/model.safetensors"):
        run_well("predict.py", tmp_path / "a.png", "--model", exported / model, "--json", tmp_path / "a.json")
        found.append((tmp_path / "a.json").read_text())
    assert found[0] == found[1] == found[2]


def test_q5_takes_the_folder_of_other_data_with_force(exported, synthetic_run, tmp_path):
    out, _ = synthetic_run
    (tmp_path / "q1_data.pt").symlink_to(out / "q1_data.pt")
    options = ("--backbone", exported / "q3_cnn", "--epochs", 1, "--device", "cpu", "--out", tmp_path)
    assert "was trained on different data or a different split" in error_of(run("q5_transfer.py", *options))
    printed = run_well("q5_transfer.py", *options, "--force")
    assert f"{exported / 'q3_cnn'}: a cnn_backbone" in printed
    network, _, _ = load_network(exported / "q3_cnn.pt")
    assert load_json(tmp_path / "q5_transfer.json")["backbone_sha256"] == weights_hash(network[0].state_dict())


@pytest.mark.parametrize("content", [b"", b"\x08" + bytes(7) + b'{"a":1}', b"\xff" * 100])
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file, or is damaged"):
        load_network(path)


def test_the_card_has_the_metrics_and_counts_of_the_record(exported):
    record, card = load_json(exported / "q3_cnn.json"), (exported / "q3_cnn" / "README.md").read_text()
    assert f"{record['test_accuracy']:.2%} (95% interval 70.0% to 80.0%)" in card
    for class_name, count in zip(record["class_names"], record["train_counts"], strict=True):
        assert f"| {class_name} | {count} | 40 |" in card
    config = load_json(exported / "q3_cnn" / "config.json")
    for key in (*NEEDED, *METRICS, "other_class_names", "test_counts", "recall", "appearance"):
        assert config[key] == record[key]


def read_card(path):
    """The card as the Hub's own library reads it."""
    hub = pytest.importorskip("huggingface_hub")
    return hub.ModelCard.load(path / "README.md" if path.is_dir() else path)


ABOUT = {"author": "J. *Doe* | Co", "license": "cc-by-4.0", "survey": "HSC", "pixel_scale": 0.168}


def test_the_card_and_the_config_say_what_is_given_and_a_folder_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write_onnx", lambda network, config, path: path.write_bytes(b""))  # which takes 10 s
    options = [word for key, value in ABOUT.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    for model, to, more in (
        (save_network(tmp_path, source="file:own.h5"), "all", options),
        (tmp_path / "all", "again", []),
        (tmp_path / "q3_cnn.pt", "none", []),
    ):
        monkeypatch.setattr(sys, "argv", ["export.py", "--model", str(model), "--to", str(tmp_path / to), *more])
        export.main()
    full, again, bare = (read_card(tmp_path / to) for to in ("all", "again", "none"))
    assert (full.data.license, bare.data.license) == ("cc-by-4.0", None)
    [result] = bare.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.75, "own.h5")
    assert full.text == again.text
    for words in (r"Author: J. \*Doe\* \| Co.", "Survey: HSC.", "0.168 arcsec per pixel, 11.6 arcsec on a side"):
        assert words in full.text
    assert not re.search("Author|Survey|arcsec|Licence of the weights", bare.text)
    for folder, about in (("all", ABOUT), ("again", ABOUT), ("none", {})):
        config = load_json(tmp_path / folder / "config.json")
        assert {key: config[key] for key in ABOUT if key in config} == about


@pytest.mark.parametrize(("source", "named"), [
    ("galaxy10-sdss", True), ("galaxy10-decals", True), ("file:own.h5", False), ("synthetic", False)])  # fmt: skip
@pytest.mark.parametrize(("name", "title"), [("q3_cnn", "convolutional"), ("q5_transfer", "transferred")])
def test_only_a_network_of_galaxy10_names_it_and_the_course(tmp_path, name, title, source, named):
    record = load_json(save_network(tmp_path, name, source=source).with_suffix(".json"))
    path = tmp_path / "README.md"
    path.write_text(model_card(name, record), encoding="utf-8")
    tags, text = read_card(path).data.tags, path.read_text().lower()
    assert title in text
    assert ("galaxy10" in tags) == ("galaxy10" in text) == ("phys-467" in text) == named
    assert ("synthetic: trained" in text) == (source == "synthetic")
    assert "it has seen fewer than 50 training images" in text


def test_each_class_has_its_test_images_and_recall_and_untrained_ones_are_named(tmp_path):
    markdown = pytest.importorskip("markdown_it")
    names = ["spiral | barred", "a*b*", "never <seen>", "d", "e", "f", "g", "h"]
    counts = {"train_counts": [60, 60, 0, *[60] * 5], "test_counts": [40, 20, 0, *[8] * 5], "class_names": names}
    changes = {**counts, "recall": [0.5, 0.25, None, *[1.0] * 5], "other_class_names": ["ring"]}
    record = load_json(save_network(tmp_path, **changes).with_suffix(".json"))
    text = model_card("q3_cnn", record).split("---", 2)[2]
    html = markdown.MarkdownIt("commonmark").enable("table").render(text)
    rows = re.findall(r"<tr>\n<td>(.*?)</td>\n<td>(.*?)</td>\n<td>(.*?)</td>\n<td>(.*?)</td>\n</tr>", html)
    assert rows[0] == ("spiral | barred", "60", "40", "50.0% (35.2% to 64.8%)")  # Wilson's interval of 20 of 40
    assert [row[0] for row in rows[:3]] == ["spiral | barred", "a*b*", "never &lt;seen&gt;"]
    assert rows[2][1:] == ("0", "0", "–")
    assert "fewer than 50" not in html
    assert "It knows 7 classes: spiral | barred; a*b*; d;" in html
    assert "It never learned, and cannot recognize: never &lt;seen&gt;; ring." in html


def blocks(text):
    """The blocks of Python code in Markdown."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("name", "by_hub"), [("q2_fcn", False), ("q3_cnn", True)])
def test_the_lines_of_the_card_load_the_weights_without_the_project_and_from_the_hub(exported, tmp_path, name, by_hub):
    pytest.importorskip("huggingface_hub")
    _, code, from_hub = blocks((exported / name / "README.md").read_text())
    cached = tmp_path / "hub" / "models--USER--NAME"  # as hf_hub_download keeps what it has fetched
    if by_hub:
        code = re.sub("^weights, config = .*$", lambda _: from_hub, code, flags=re.MULTILINE)
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0123")
    folder = cached / "snapshots" / "0123" if by_hub else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("model.safetensors", "config.json"):
        (folder / file).symlink_to(exported / name / file)
    pixels = galaxies(1)[0]
    Image.fromarray(pixels).save(tmp_path / "galaxy.png")
    end = "import sys\nassert not {'common', 'use', 'q3_cnn'} & set(sys.modules)\ntorch.save(logits, 'logits.pt')\n"
    (tmp_path / "lines.py").write_text(code + end)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "lines.py"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    [expected] = plain_logits(exported / f"{name}.pt", images, [(10, 10)])
    found, limit = torch.load(tmp_path / "logits.pt"), float32_tolerance(products_of(NETWORKS[name]()), expected)
    torch.testing.assert_close(found, expected.float(), atol=limit, rtol=0)
    names = load_json(exported / f"{name}.json")["class_names"]
    assert done.stdout.splitlines()[0] == f"{found.softmax(1)[0, 0]:6.1%}  {names[0]}"


def test_the_ten_lines_use_the_network_without_torch(exported, tmp_path):
    code = blocks((exported / "q3_cnn" / "README.md").read_text())[0]
    assert len(code.replace("\n\n", "\n").splitlines()) == 10
    assert blocks((ROOT / "docs" / "onnx.md").read_text()) == [code]
    (tmp_path / "model.onnx").symlink_to(exported / "q3_cnn" / "model.onnx")
    pixels = galaxies(1)[0]
    Image.fromarray(pixels).save(tmp_path / "galaxy.png")
    blocked = f"import sys\nsys.modules['torch'] = None\n{code}"
    command = [sys.executable, "-c", blocked]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    arguments = ("--model", exported / "q3_cnn", "--crops", 1, "--json", tmp_path / "a.json")
    run_well("predict.py", tmp_path / "galaxy.png", *arguments)
    [record] = json.loads((tmp_path / "a.json").read_text())
    names = load_json(exported / "q3_cnn.json")["class_names"]
    rows = [f"{p:6.1%}  {name}" for p, name in zip(record["probabilities"], names, strict=True)]
    assert printed.splitlines() == rows


def test_missing_packages_are_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(sys, "argv", ["export.py"])
    with pytest.raises(ValueError, match=r"^export\.py needs onnx, onnxscript: pip install onnx onnxscript$"):
        export.main()


def test_a_record_without_metrics_is_refused_and_nothing_written(tmp_path):
    path = save_network(tmp_path)
    record = path.with_suffix(".json")
    record.write_text(record.read_text().replace('"test_loss"', '"old"'))
    message = error_of(run("export.py", "--model", path, "--to", tmp_path / "model"))
    assert message == "error: the record of q3_cnn lacks test_loss: rerun q3_cnn.py"
    assert not (tmp_path / "model").exists()

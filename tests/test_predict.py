"""One run of predict.py with all its outputs, which the tests look at, and the parts behind the predictions."""

import csv
import hashlib
import json
import os
import re
from types import SimpleNamespace

import predict
from common.data import load_data
from common.galaxies.appearance import MEASURES, appearance, appearance_range, out_of_range
from common.galaxies.facts import CLASS_NAMES
from common.hardware.layers import reorder_layers
from common.storage.artifacts import load_json
from q2_fcn import make_fcn
from q3_cnn import make_cnn
from use.ensemble import CROPS, grid, share_layers
from use.explain import occlusion
from use.trained import load_network

import numpy as np
import pytest
import torch
from conftest import float32_tolerance, products_of, run, run_well
from networks import NINE, galaxies, plain_logits, save_network, save_pictures
from PIL import Image
from torchvision import transforms

NAMES = [*(f"g{number:02}.png" for number in range(10)), os.fsdecode(b"gal\xe9.png"), "two\nlines.png"]
SHOWN = [*NAMES[:10], r"gal\xe9.png", r"two\nlines.png", "white.png"]
GALAXIES = galaxies(12, seed=5)  # as `save_pictures` writes them
TRAINED = (3, 7)  # training images among them


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run on a list of a folder and twelve missing files, and what it wrote.

    The folder has twelve pictures, two of them with odd names and ten with true classes, and a white one.
    """
    folder = tmp_path_factory.mktemp("predict")
    save_pictures(folder / "in", NAMES)
    hashes = [hashlib.sha256(GALAXIES[number].tobytes()).hexdigest()[:16] for number in TRAINED]
    model = save_network(folder, train_hashes=["0" * 16, *hashes])
    Image.new("RGB", (100, 100), "white").save(folder / "in" / "white.png")
    (folder / "truth.csv").write_text("name,class\n" + "".join(f"g{n:02},{n % 8}\n" for n in range(10)))
    missing = [b"none\xe9\x1b.png", *(b"%d.png" % number for number in range(1, 12))]
    (folder / "list").write_bytes(b"\r\n".join([*missing, os.fsencode(folder / "in")]))
    outputs = {"csv": "a.csv", "json": "a.json", "html": "a.html", "features": "a.features"}
    arguments = [part for option, name in outputs.items() for part in (f"--{option}", folder / name)]
    arguments += ["--model", model, "--truth", folder / "truth.csv"]
    finished = run("predict.py", "-", "", *arguments, stdin=folder / "list")
    assert finished.returncode == 2
    records = json.loads((folder / "a.json").read_text())
    with open(folder / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines, errors = finished.stdout.splitlines(), finished.stderr.splitlines()
    return SimpleNamespace(folder=folder, model=model, records=records, rows=rows, lines=lines, errors=errors)


def test_names_of_any_kind_are_escaped_in_all_outputs(done):
    assert [record["file"] for record in done.records] == [f"{done.folder}/in/{name}" for name in SHOWN]
    assert [record["id"] for record in done.records] == [name.removesuffix(".png") for name in SHOWN]
    assert [row["file"] for row in done.rows] == [record["file"] for record in done.records]
    page = (done.folder / "a.html").read_text()
    assert all(f"{name}</p>" in page for name in SHOWN)


def test_records_hold_the_means_over_nine_crops_of_the_plain_network(done):
    logits = plain_logits(done.model, torch.from_numpy(GALAXIES).permute(0, 3, 1, 2))
    limit = float32_tolerance(products_of(make_cnn()), logits)
    for record, each in zip(done.records, logits.softmax(2).unbind(1), strict=False):
        mean = each.mean(0).numpy()
        np.testing.assert_allclose(record["probabilities"], mean, atol=limit, rtol=0)
        first, second = np.argsort(-mean)[:2]
        assert (record["class"], record["second"]) == (first, second)
        assert (record["class_name"], record["second_name"]) == (CLASS_NAMES[first], CLASS_NAMES[second])
        assert record["probability"] == max(record["probabilities"])
        assert record["disagreement"] == pytest.approx((each.argmax(1) != first).double().mean().item())


def test_features_are_the_means_over_nine_crops_of_the_plain_backbone(done):
    network, record, _ = load_network(done.model)
    normalize, backbone = transforms.Normalize(record["mean"], record["std"]), network[0].double()
    with np.load(done.folder / "a.features") as found:
        assert found["files"].tolist() == [record["file"] for record in done.records]
        assert found["ids"].tolist() == [record["id"] for record in done.records]
        assert found["features"].dtype == np.float32
        for row, pixels in zip(found["features"], GALAXIES, strict=False):
            image = torch.from_numpy(pixels).permute(2, 0, 1).float()
            crops = [normalize(image[:, y : y + 48, x : x + 48]) for y, x in NINE]
            with torch.no_grad():
                features = backbone(torch.stack(crops).double()).mean(0)
            np.testing.assert_allclose(row, features, atol=float32_tolerance(products_of(backbone), features), rtol=0)


def test_rows_hold_what_the_records_hold_and_no_cell_is_empty(done):
    probabilities = [f"p_{label}" for label in range(8)]
    columns = ["file", "id", "class", "class_name", "probability", *probabilities, "second", "second_name"]
    columns += ["disagreement", "out_of_range", "truth", "truth_name"]
    assert list(done.rows[0]) == columns
    assert all(value for row in done.rows for value in row.values())
    assert b"\r" not in (done.folder / "a.csv").read_bytes()
    for row, record in zip(done.rows, done.records, strict=True):
        assert [float(row[name]) for name in probabilities] == record["probabilities"]  # to the last bit
        assert ("; ".join(record["out_of_range"]) or "none") == row["out_of_range"]
        for name in columns:
            if name not in (*probabilities, "out_of_range", "truth", "truth_name"):
                assert row[name] == str(record[name])
    assert [(row["truth"], row["truth_name"]) for row in done.rows[9:11]] == [("1", CLASS_NAMES[1]), ("-1", "none")]
    assert [(each["truth"], each["truth_name"]) for each in done.records[9:11]] == [(1, CLASS_NAMES[1]), (None, None)]


def test_a_picture_out_of_range_is_marked_with_the_reason(done):
    reason = done.records[-1]["out_of_range"][0]
    assert reason.startswith("brightness 1.000, for 99% of the training images ")
    assert f"    outside the range of the training images: {reason}" in done.lines


def test_the_printed_table_is_aligned(done):
    lines = [line for line in done.lines[1:15] if not line.startswith("    ")]
    starts = {re.search(r"(Disk|Smooth), ", line).start() for line in lines[1:]}
    assert starts == {lines[0].index("class")}
    assert len({line.index("%") for line in lines[1:]}) == 1


def test_the_output_ends_with_a_line_per_class_and_the_accuracy_without_training_images(done):
    start = next(number for number, line in enumerate(done.lines) if line.startswith("class "))
    for label, line in enumerate(done.lines[start + 1 : start + 9]):
        count = sum(record["class"] == label for record in done.records)
        mean = np.mean([record["probabilities"][label] for record in done.records])
        assert line.removeprefix(CLASS_NAMES[label]).split() == [str(count), f"{count / 13:.1%}", f"{mean:.1%}"]
    assert done.lines[start + 9] == "2 of these pictures are training images of this network: not counted below."
    tested = [record for number, record in enumerate(done.records[:10]) if number not in TRAINED]
    accuracy = np.mean([record["class"] == record["truth"] for record in tested])
    assert done.lines[start + 10].startswith(f"Accuracy {accuracy:.1%} (95% interval ")
    assert done.lines[start + 10].endswith(" on 8 pictures. 3 pictures have no true class.")


def test_ten_unreadable_pictures_are_named_at_the_end_then_their_number(done):
    names = [r"none\xe9\x1b.png", *(f"{number}.png" for number in range(1, 10))]
    errors = [f"error: {name}: No such file or directory" for name in names]
    assert done.errors == [*errors, "and 2 more", "12 of 25 files could not be read."]


def test_options_reach_the_predictions(done, tmp_path):
    def probabilities(*options):
        printed.append(run_well("predict.py", done.folder / "in", *options, "--json", tmp_path / "a.json"))
        return np.array([record["probabilities"] for record in json.loads((tmp_path / "a.json").read_text())])

    printed, options = [], ("--model", done.model, "--crops", 1, "--symmetries")
    found, scaled = probabilities(*options), probabilities(*options, "--temperature", 2.5)
    views = [np.rot90(view, turns) for view in (GALAXIES[0], GALAXIES[0][:, ::-1]) for turns in range(4)]
    [logits] = plain_logits(done.model, torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2), [(10, 10)])
    limit = float32_tolerance(products_of(make_cnn()), logits)
    np.testing.assert_allclose(found[0], logits.softmax(1).mean(0), atol=limit, rtol=0)
    expected = found ** (1 / 2.5)
    np.testing.assert_allclose(scaled, expected / expected.sum(1, keepdims=True), atol=1e-6)
    assert (probabilities(*options, "--field", 0.5)[0] != found[0]).any()
    sentence = "2 of these pictures are training images of this network: their probabilities are too optimistic."
    assert printed[0].splitlines()[-1] == sentence
    with pytest.raises(ValueError, match="invalid choice: 8"):
        predict.get_args(["a.png", "--crops", "8"])


def test_without_a_readable_picture_the_files_are_empty_and_the_status_is_2(done, tmp_path):
    names = {option: tmp_path / f"a.{option}" for option in ("json", "features", "html", "csv")}
    outputs = [part for option, path in names.items() for part in (f"--{option}", path)]
    finished = run("predict.py", tmp_path, "--model", done.model, *outputs)
    assert "is a folder without pictures" in finished.stderr
    assert finished.returncode == 2
    assert json.loads(names["json"].read_text()) == []
    assert len(names["csv"].read_text().splitlines()) == 1
    with np.load(names["features"]) as found:
        assert found["features"].shape == (0, 64)


def test_grids_are_square_and_at_even_places():
    assert grid(69, 1) == [(10, 10)]
    assert grid(69, 9) == NINE
    for crops in CROPS[1:]:
        assert len(set(grid(69, crops))) == crops
        assert {place % 2 for corner in grid(69, crops) for place in corner} == {0}
        assert (grid(69, crops)[0], grid(69, crops)[-1]) == ((0, 0), (20, 20))


@pytest.mark.parametrize("make_network", [make_fcn, make_cnn])
@pytest.mark.parametrize(("size", "crops"), [(69, 1), (69, 9), (53, 36)])
def test_layers_shared_by_the_windows_give_what_the_network_gives_window_by_window(make_network, size, crops):
    torch.manual_seed(crops)
    network, corners = make_network().double().eval(), np.array(grid(size, crops))
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    shared, rest, places, side = share_layers(reorder_layers(network), corners, size)
    with torch.no_grad():
        maps = shared(images)
        for (top, left), (row, column) in zip(corners, places, strict=True):
            expected = network(images[:, :, top : top + 48, left : left + 48])
            found = rest(maps[:, :, row : row + side, column : column + side])
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "known", "unknown"), [
    ("q2_fcn", range(8), (8, 9)), ("q3_cnn", range(8), (8, 9)), ("q5_transfer", (8, 9), range(8))])  # fmt: skip
def test_the_networks_of_the_chain_say_which_classes_they_know(synthetic_run, name, known, unknown):
    path = synthetic_run[0] / f"{name}.pt"
    _, record, found = load_network(path)
    sentence = predict.describe_network(path, found, record)
    images = f"{sum(record['train_counts']):,} images of SYNTHETIC galaxies"
    assert sentence.startswith(f"{path}: the network of {name}.py, trained on {images}")
    known, unknown = ("; ".join(CLASS_NAMES[label] for label in labels) for labels in (known, unknown))
    count = len(record["class_names"])
    assert f"It knows {count} classes: {known}. It never learned, and cannot recognize: {unknown}." in sentence
    assert "no statistics" not in sentence
    without = predict.describe_network(path, found, {**record, "appearance": None, "note": "For trying."})
    assert "no statistics of the training images, so pictures outside their range are not marked" in without
    assert without.endswith(" For trying.")


def test_training_records_how_its_images_look(synthetic_run):
    out, _ = synthetic_run
    measured = appearance(load_data(out)["main_train_images"])
    ranges = load_json(out / "q3_cnn.json")["appearance"]
    for column, name in enumerate(MEASURES):
        expected = np.percentile(measured[:, column].numpy(), [0.5, 99.5])
        np.testing.assert_allclose(ranges[name], expected, atol=float32_tolerance(69 * 69 * 3, expected), rtol=0)


def test_appearance_is_computed_by_its_definition_and_few_training_images_are_out_of_range():
    pixels = np.zeros((2, 69, 69, 3), dtype=np.uint8)
    pixels[0, 30:39, 30:39] = (200, 100, 50)
    pixels[1] = np.random.default_rng(0).integers(0, 256, (69, 69, 3))
    values = appearance(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    scaled = pixels / 255
    expected = (scaled.mean((1, 2, 3)), scaled.mean(3).std((1, 2)), (scaled[..., 0] - scaled[..., 2]).mean((1, 2)))
    limit = float32_tolerance(69 * 69 * 3, np.array(expected))
    np.testing.assert_allclose(values[:, :3].T, expected, atol=limit, rtol=0)
    assert values[0, 3] == pytest.approx(1)
    assert values[1, 3] == pytest.approx(np.pi / 16, abs=0.03)  # the disk's share of the area
    images = torch.from_numpy(galaxies(200)).permute(0, 3, 1, 2)
    assert sum(map(bool, out_of_range(images, appearance_range(images)))) <= 8  # 1 % for each of four measures


def test_explain_shows_where_the_answer_comes_from():
    pytest.importorskip("captum")

    def answer(images):  # looks at one place only
        light = images[:, :, 20:25, 40:45].float().mean((1, 2, 3)) / 255
        return torch.stack((light, 1 - light), dim=1)

    image = torch.full((3, 69, 69), 10, dtype=torch.uint8)
    image[:, 15:30, 35:50] = 200
    effect = occlusion(answer, image, 0)
    assert effect[22, 42] > 0.9 * effect.max() > 0.3
    assert effect[50:, :30].abs().max() == 0

import json
import os
import re

from common.data import load_data
from common.galaxies.appearance import MEASURES, appearance, appearance_range, out_of_range
from common.galaxies.facts import CLASS_NAMES
from common.hardware.layers import reorder_layers
from common.storage.artifacts import load_json
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn
from use.ensemble import grid, share_layers
from use.explain import occlusion
from use.trained import load_network

import numpy as np
import pytest
import torch
from conftest import error_of, float32_tolerance, products_of, run, run_well
from networks import NINE, galaxies, plain_logits, save_network, save_pictures
from PIL import Image
from torch import nn
from torchvision import transforms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights and ten pictures."""
    folder = tmp_path_factory.mktemp("predict")
    save_network(folder)
    save_pictures(folder / "pictures", [f"g{number}.png" for number in range(10)])
    return folder


def predicted(folder, *args):
    """Run predict.py on the ten pictures; return its records and what it printed."""
    arguments = (folder / "pictures", "--model", folder / "q3_cnn.pt", "--json", folder / "answers.json", *args)
    printed = run_well("predict.py", *arguments)
    return json.loads((folder / "answers.json").read_text()), printed


def test_records_hold_the_means_over_nine_crops_of_the_plain_network(folder):
    records, _ = predicted(folder)
    names = load_json(folder / "q3_cnn.json")["class_names"]
    images = torch.from_numpy(galaxies(10, seed=5)).permute(0, 3, 1, 2)
    logits = plain_logits(folder / "q3_cnn.pt", images)
    limit = float32_tolerance(products_of(make_cnn()), logits)
    for record, each in zip(records, logits.softmax(2).unbind(1), strict=True):
        mean = each.mean(0).numpy()
        np.testing.assert_allclose(record["probabilities"], mean, atol=limit, rtol=0)
        first, second = np.argsort(-mean)[:2]
        assert (record["class"], record["second"]) == (first, second)
        assert (record["class_name"], record["second_name"]) == (names[first], names[second])
        assert record["probability"] == max(record["probabilities"])
        assert record["disagreement"] == pytest.approx((each.argmax(1) != first).double().mean().item())
    assert [record["file"] for record in records] == [str(folder / "pictures" / f"g{i}.png") for i in range(10)]


def test_features_are_the_means_over_nine_crops_of_the_plain_backbone(folder, tmp_path):
    path = folder / "q3_cnn.pt"
    pictures = sorted((folder / "pictures").iterdir())
    run_well("predict.py", *pictures, "--model", path, "--features", tmp_path / "a", "--csv", tmp_path / "a.csv")
    network, record, _ = load_network(path)
    normalize = transforms.Normalize(record["mean"], record["std"])
    with np.load(tmp_path / "a") as found:
        assert found["files"].tolist() == list(map(str, pictures))
        assert found["ids"].tolist() == [path.stem for path in pictures]
        assert found["features"].dtype == np.float32
        for row, picture in zip(found["features"], pictures, strict=True):
            image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1).float()
            crops = [normalize(image[:, y : y + 48, x : x + 48]) for y, x in NINE]
            with torch.no_grad():
                features = network[0].double()(torch.stack(crops).double()).mean(0)
            limit = float32_tolerance(products_of(network[0]), features)
            np.testing.assert_allclose(row, features, atol=limit, rtol=0)


def test_options_that_the_network_or_its_pictures_do_not_allow_are_refused(folder, tmp_path):
    fcn = save_network(tmp_path, "q2_fcn")
    for model, option, sentence in (
        (
            fcn,
            ("--features", tmp_path / "a.npz"),
            f"{fcn} is a fully connected network, without a backbone",
        ),
        (folder / "q3_cnn.pt", ("--crops", 8), "must be a square number, for a grid: 1, 4, 9, 16"),
    ):
        assert sentence in error_of(run("predict.py", folder / "pictures", "--model", model, *option))


def test_one_crop_is_the_central_one_and_symmetries_are_the_eight_of_a_square(folder):
    records, _ = predicted(folder, "--crops", 1, "--symmetries")
    pixels = galaxies(1, seed=5)[0]
    ways = [np.rot90(way, turns) for way in (pixels, pixels[:, ::-1]) for turns in range(4)]
    images = torch.from_numpy(np.stack(ways)).permute(0, 3, 1, 2)
    [logits] = plain_logits(folder / "q3_cnn.pt", images, [(10, 10)])
    limit = float32_tolerance(products_of(make_cnn()), logits)
    np.testing.assert_allclose(records[0]["probabilities"], logits.softmax(1).mean(0), atol=limit, rtol=0)


def test_grids_are_square_and_fit():
    assert grid(69, 1) == [(10, 10)]
    assert grid(69, 4) == [(0, 0), (0, 20), (20, 0), (20, 20)]
    assert grid(71, 9)[-1] == (22, 22)
    assert grid(69, 121) == [(top, left) for top in range(0, 21, 2) for left in range(0, 21, 2)]
    assert len(set(grid(69, 144))) == 144
    assert grid(69, 484) == [(top, left) for top in range(22) for left in range(22)]
    for size, crops in ((69, 8), (69, 529), (48, 4)):
        with pytest.raises(ValueError, match="--crops"):
            grid(size, crops)


@pytest.mark.parametrize("make_network", [make_fcn, make_cnn, lambda: nn.Sequential(make_backbone(), nn.Linear(64, 2))])
@pytest.mark.parametrize(("size", "crops"), [(69, 1), (69, 9), (100, 4), (53, 36)])
def test_layers_that_are_shared_by_the_windows_give_what_the_network_gives_window_by_window(make_network, size, crops):
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
def test_the_networks_of_the_chain_predict_and_say_which_classes_they_know(
    synthetic_run, tmp_path, name, known, unknown
):
    out, _ = synthetic_run
    image = load_data(out)["main_test_images"][0]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    printed = run_well("predict.py", tmp_path / "a.png", "--model", out / f"{name}.pt", "--json", tmp_path / "a.json")
    assert f"{name}.pt: the network of {name}.py, trained on SYNTHETIC galaxies" in printed
    assert (
        f"It knows {len(known)} classes: {'; '.join(CLASS_NAMES[label] for label in known)}. "
        f"It never learned, and cannot recognize: {'; '.join(CLASS_NAMES[label] for label in unknown)}."
    ) in printed
    [record] = json.loads((tmp_path / "a.json").read_text())
    assert sum(record["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert record["out_of_range"] == out_of_range(image[None], load_json(out / f"{name}.json")["appearance"])[0]


def test_training_records_how_its_images_look(synthetic_run):
    out, _ = synthetic_run
    measured = appearance(load_data(out)["main_train_images"])
    ranges = load_json(out / "q3_cnn.json")["appearance"]
    for column, name in enumerate(MEASURES):
        expected = np.percentile(measured[:, column].numpy(), [0.5, 99.5])
        limit = float32_tolerance(69 * 69 * 3, expected)
        np.testing.assert_allclose(ranges[name], expected, atol=limit, rtol=0)


def test_appearance_is_what_it_says():
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


def test_pictures_out_of_range_are_classified_and_marked_with_the_reason(folder, tmp_path):
    images = torch.from_numpy(galaxies(200)).permute(0, 3, 1, 2)
    marks = out_of_range(images, appearance_range(images))
    assert sum(map(bool, marks)) <= 8  # 1 % for each of four measures
    Image.new("RGB", (100, 100), "white").save(tmp_path / "white.png")
    model = ("--model", folder / "q3_cnn.pt")
    printed = run_well("predict.py", tmp_path / "white.png", *model, "--json", tmp_path / "a.json")
    [record] = json.loads((tmp_path / "a.json").read_text())
    assert record["class_name"] in printed
    assert any(
        reason.startswith("brightness 1.000, for 99% of the training images ") for reason in record["out_of_range"]
    )
    assert f"    outside the range of the training images: {record['out_of_range'][0]}" in printed


def test_the_table_is_aligned(folder):
    _, printed = predicted(folder)
    lines = [line for line in printed.splitlines()[1:-9] if not line.startswith("    ")]
    assert len(lines) == 11
    starts = {line.index(name) for line in lines[1:] for name in re.findall(r"(?:Disk|Smooth), .*?(?=  )", line)[:1]}
    assert starts == {lines[0].index("class")}
    assert len({line.index("%") for line in lines[1:]}) == 1


def test_explain_shows_where_the_answer_comes_from():
    pytest.importorskip("captum")

    def answer(images):  # that only looks at one place
        light = images[:, :, 20:25, 40:45].float().mean((1, 2, 3)) / 255
        return torch.stack((light, 1 - light), dim=1)

    image = torch.full((3, 69, 69), 10, dtype=torch.uint8)
    image[:, 15:30, 35:50] = 200
    effect = occlusion(answer, image, 0)
    assert effect[22, 42] > 0.9 * effect.max() > 0.3
    assert effect[50:, :30].abs().max() == 0


def test_paths_come_from_stdin_and_failures_end_with_status_2(folder, tmp_path):
    (tmp_path / "list").write_bytes(b"none\xe9.png\r\n%b/pictures/g0.png\r\n" % os.fsencode(folder))
    outputs = ("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
    done = run("predict.py", "-", "", "--model", folder / "q3_cnn.pt", *outputs, stdin=tmp_path / "list")
    assert done.returncode == 2
    errors = [r"error: none\xe9.png: No such file or directory", "1 of 2 files could not be read."]
    assert done.stderr.splitlines() == errors
    assert [record["file"] for record in json.loads((tmp_path / "a.json").read_text())] == [f"{folder}/pictures/g0.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.resume", "a.json", "list"]


def test_no_readable_picture_gives_empty_lists_and_status_2(folder, tmp_path):
    outputs = ("--json", tmp_path / "a.json", "--features", tmp_path / "a.npz")
    done = run("predict.py", tmp_path, "--model", folder / "q3_cnn.pt", *outputs)
    assert "is a folder without pictures" in done.stderr
    assert done.returncode == 2
    assert json.loads((tmp_path / "a.json").read_text()) == []
    with np.load(tmp_path / "a.npz") as found:
        assert found["features"].shape == (0, 64)

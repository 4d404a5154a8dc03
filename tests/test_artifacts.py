import json

import pytest
import torch
from conftest import Harmful
from torch import nn

from common.storage import artifacts
from common.storage.atomic import atomic_write
from common.storage.checkpoint import load_trained


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "names": ["x", "y"], "source": "synthetic"}
    artifacts.save_tensors(tensors, tmp_path / "t.pt")
    back = artifacts.load_tensors(tmp_path / "t.pt", "nobody")
    assert torch.equal(back["a"], tensors["a"])
    assert (back["names"], back["source"]) == (["x", "y"], "synthetic")
    artifacts.save_json({"loss": 0.5, "undefined": [float("nan"), {"x": float("nan")}]}, tmp_path / "r.json")
    assert artifacts.load_json(tmp_path / "r.json") == {"loss": 0.5, "undefined": [None, {"x": None}]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "r.json"
    artifacts.save_json({"run": 1}, path)
    with pytest.raises(TypeError):
        artifacts.save_json({"run": object()}, path)

    def write_half(temporary):
        temporary.write_text("half of it")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError), atomic_write(path) as [temporary]:
        write_half(temporary)
    assert json.loads(path.read_text()) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path):
    artifacts.save_text("x", tmp_path / "a" / "b" / "c.txt")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_a_state_dict_read_back_gives_the_same_logits(tmp_path):
    torch.manual_seed(0)
    model, other = nn.Linear(5, 3), nn.Linear(5, 3)
    inputs = torch.randn(7, 5)
    artifacts.save_tensors(model.state_dict(), tmp_path / "m.pt")
    load_trained(other, tmp_path / "m.pt", {}, "q2_fcn.py")
    assert torch.equal(model(inputs), other(inputs))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"weights": Harmful(tmp_path / "written")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad.pt is not a file of tensors that torch can read safely"):
        artifacts.load_tensors(tmp_path / "bad.pt", "q3_cnn.py")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(50)])
def test_files_torch_cannot_read_are_named(tmp_path, content):
    path = tmp_path / "q1_data.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"q1_data.pt is not a file of tensors"):
        artifacts.load_data(tmp_path)


def test_missing_and_mismatched_files_say_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"q1_data.pt does not exist: run q1_data.py first"):
        artifacts.load_data(tmp_path)
    artifacts.save_tensors(nn.Linear(4, 3).state_dict(), tmp_path / "q2_fcn.pt")
    with pytest.raises(ValueError, match=r"q2_fcn.pt does not hold the weights of this network: rerun q2_fcn.py"):
        load_trained(nn.Linear(5, 3), tmp_path / "q2_fcn.pt", {}, "q2_fcn.py")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "q2_fcn.json").write_text('{"test_accuracy": 0.')
    with pytest.raises(ValueError, match=r"q2_fcn.json is not valid JSON"):
        artifacts.load_json(tmp_path / "q2_fcn.json")

import json

from common.data import load_data
from common.storage import artifacts
from common.storage.checkpoint import load_trained

import pytest
import torch
from torch import nn


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "names": ["x", "y"], "source": "synthetic"}
    artifacts.save_tensors(tensors, tmp_path / "new" / "t.pt")
    back = artifacts.load_tensors(tmp_path / "new" / "t.pt", "nobody")
    assert torch.equal(back["a"], tensors["a"])
    assert (back["names"], back["source"]) == (["x", "y"], "synthetic")
    artifacts.save_json({"loss": 0.5, "undefined": [float("nan"), {"x": float("nan")}]}, tmp_path / "r.json")
    assert artifacts.load_json(tmp_path / "r.json") == {"loss": 0.5, "undefined": [None, {"x": None}]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "r.json"
    artifacts.save_json({"run": 1}, path)
    with pytest.raises(TypeError):
        artifacts.save_json({"run": object()}, path)
    assert json.loads(path.read_text()) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_mismatched_files_say_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"q1_data.pt does not exist: run q1_data.py first"):
        load_data(tmp_path)
    artifacts.save_tensors({"mean": torch.ones(3)}, tmp_path / "q1_data.pt")
    with pytest.raises(ValueError, match=r"q1_data.pt was not written by this q1_data.py: rerun it"):
        load_data(tmp_path)
    artifacts.save_tensors(nn.Linear(4, 3).state_dict(), tmp_path / "q2_fcn.pt")
    with pytest.raises(ValueError, match=r"q2_fcn.pt does not hold the weights of this network: rerun the script that"):
        load_trained(nn.Linear(5, 3), tmp_path / "q2_fcn.pt", {"fingerprint": "here"}, "q2_fcn.py")


@pytest.mark.parametrize(
    ("text", "words"), [('{"test_accuracy": 0.', "is not valid JSON"), ("[]", "is not the record")]
)
def test_broken_json_is_named(text, words, tmp_path):
    (tmp_path / "q2_fcn.json").write_text(text)
    with pytest.raises(ValueError, match=f"q2_fcn.json {words}"):
        artifacts.load_json(tmp_path / "q2_fcn.json")

import pytest
import torch
from torch import nn

from common.artifacts import save_tensors
from common.checkpoint import load_backbone, weights_hash
from common.models import classifier, convolutional_backbone


def test_the_cnn_and_its_backbone_alone_give_the_same_features(tmp_path):
    torch.manual_seed(0)
    backbone = convolutional_backbone()
    crops = torch.randn(3, 3, 48, 48)
    for content, word in ((classifier(backbone, 8), "the backbone of a CNN"), (backbone, "a cnn_backbone")):
        save_tensors(content.state_dict(), tmp_path / "ckpt.pt")
        loaded, kind = load_backbone(tmp_path / "ckpt.pt")
        assert kind == word
        assert torch.equal(loaded(crops), backbone(crops))
        assert weights_hash(loaded) == weights_hash(backbone)


def test_another_network_is_refused_with_what_was_expected_and_found(tmp_path):
    save_tensors(nn.Sequential(nn.Flatten(), nn.Linear(6912, 64)).state_dict(), tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=r"expected 0.weight 8x3x5x5.*found 1.weight 64x6912, 1.bias 64"):
        load_backbone(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 5}, {}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    save_tensors(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=r"ckpt.pt (holds no state_dict|is not a state_dict)"):
        load_backbone(tmp_path / "ckpt.pt")


def test_the_hash_sees_every_bit():
    backbone = convolutional_backbone()
    before = weights_hash(backbone)
    assert weights_hash(backbone.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        weight = backbone[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert weights_hash(backbone) != before

import math

from common.hardware.layers import reorder_layers
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts_match_the_assignment():
    assert count(make_fcn()) == 442_952
    assert count(make_backbone()) == 178_096
    assert count(make_cnn()) == 178_616
    assert count(nn.Sequential(make_backbone(), nn.Linear(64, 2))) == 178_226


def test_layers_match_the_assignment():
    kinds = [type(layer) for layer in make_fcn()]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    kinds = [type(layer) for layer in make_backbone()]
    convolution = [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*convolution, *convolution, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]


def test_the_first_loss_is_near_a_uniform_guess():
    torch.manual_seed(0)
    crops = torch.randn(256, 3, 48, 48)
    for model, num_classes in ((make_fcn(), 8), (nn.Sequential(make_backbone(), nn.Linear(64, 2)), 2)):
        loss = cross_entropy(model(crops), torch.arange(256) % num_classes).item()
        assert abs(loss - math.log(num_classes)) < 0.1


def test_state_dict_keys_separate_backbone_and_head():
    keys = set(make_cnn().state_dict())
    layers = {key.rsplit(".", 1)[0] for key in keys}
    assert layers == {"0.0", "0.3", "0.7", "0.9", "1"}


# Exact on any processor: maximum and ReLU do not round, and all other layers get the same values in both networks.
def test_pooling_before_relu_changes_no_bit_of_outputs_and_gradients():
    torch.manual_seed(0)
    model = make_cnn()
    crops, labels = torch.randn(20, 3, 48, 48), torch.arange(20) % 8
    faster = reorder_layers(model)
    kinds = [type(layer) for layer in faster[0]]
    assert kinds.index(nn.MaxPool2d) < kinds.index(nn.ReLU)
    results = []
    for network in (model, faster):
        model.zero_grad()
        logits = network(crops)
        cross_entropy(logits, labels).backward()
        results.append([logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))

import math
from argparse import Namespace

import pytest
import torch
from conftest import random_data
from torch import nn

from common.data import make_loader, seed_epoch
from common.models import classifier, convolutional_backbone, fully_connected
from common.train import HISTORY_KEYS, loss_and_accuracy, predict, train, train_epoch

CPU = torch.device("cpu")
MEAN, STD = torch.full((3,), 127.5), torch.full((3,), 73.9)
NETWORKS = {"fcn": fully_connected, "cnn": lambda: classifier(convolutional_backbone(), 8)}


def loaders(count=100):
    images, labels = random_data(count)
    return make_loader(images, labels, MEAN, STD, shuffle=True), make_loader(images, labels, MEAN, STD)


def settings(**changes):
    return Namespace(**{"epochs": 2, "lr": 0.001, "seed": 0, "precision": "float32", **changes})


def train_once(network, **changes):
    args = settings(**changes)
    torch.manual_seed(args.seed)
    model = NETWORKS[network]()
    history = train(model, *loaders(), args, CPU)
    return model, history


@pytest.mark.parametrize("network", NETWORKS)
def test_one_seed_gives_the_same_bits_and_another_does_not(network):
    first, first_history = train_once(network)
    again, again_history = train_once(network)
    other, _ = train_once(network, seed=1)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    for key in HISTORY_KEYS[:4]:
        assert first_history[key] == again_history[key]
    assert all(len(first_history[key]) == 2 for key in HISTORY_KEYS)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_batch_can_be_overfitted(network):
    torch.manual_seed(0)
    crops, labels = torch.randn(16, 3, 48, 48), torch.arange(16) % 8
    model = NETWORKS[network]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for _ in range(150):
        loss, accuracy = train_epoch(model, [(crops, labels)], optimizer, CPU)
    assert loss < 0.01
    assert accuracy == 1.0


def test_train_step_equals_a_slow_one_in_plain_torch():
    torch.manual_seed(0)
    crops, labels = torch.randn(100, 3, 48, 48), torch.arange(100) % 8
    batches = [(crops[:64], labels[:64]), (crops[64:], labels[64:])]
    model, reference = NETWORKS["cnn"](), NETWORKS["cnn"]()
    reference.load_state_dict(model.state_dict())
    loss, accuracy = train_epoch(model, batches, torch.optim.Adam(model.parameters(), lr=0.002, fused=True), CPU)

    optimizer = torch.optim.Adam(reference.parameters(), lr=0.002, foreach=False)
    losses, right = [], 0
    for images, truth in batches:
        optimizer.zero_grad()
        log_probabilities = reference(images).log_softmax(1)
        each = -log_probabilities[torch.arange(len(truth)), truth]
        each.mean().backward()
        optimizer.step()
        losses += each.tolist()
        right += sum(int(row.argmax()) == int(label) for row, label in zip(log_probabilities, truth, strict=True))
    assert loss == pytest.approx(math.fsum(losses) / 100, rel=1e-5)  # by sample: the second batch is smaller
    assert accuracy == right / 100
    for parameter, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_trainable_parameter_moves_in_one_step(network):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    before = [parameter.clone() for parameter in model.parameters()]
    batch = [(torch.randn(64, 3, 48, 48), torch.arange(64) % 8)]
    train_epoch(model, batch, torch.optim.Adam(model.parameters(), lr=0.002), CPU)
    for old, new in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_only_the_head_trains_when_the_backbone_is_frozen():
    torch.manual_seed(0)
    backbone = convolutional_backbone().requires_grad_(False)
    model = classifier(backbone, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels = random_data(64, num_classes=2)
    loader = make_loader(images, labels, MEAN, STD, shuffle=True)
    train(model, loader, make_loader(images, labels, MEAN, STD), settings(lr=0.005), CPU)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"1.weight", "1.bias"}


def test_predictions_repeat_bit_for_bit_and_leave_random_states_alone():
    torch.manual_seed(0)
    model = NETWORKS["cnn"]()
    _, loader = loaders()
    state = torch.get_rng_state()
    logits, labels = predict(model, loader, CPU)
    assert logits.shape == (100, 8)
    assert torch.equal(torch.get_rng_state(), state)
    seed_epoch(loader, 12345, 6)
    assert torch.equal(predict(model, loader, CPU)[0], logits)
    assert torch.equal(labels, torch.arange(100) % 8)


def test_history_ends_with_what_a_new_evaluation_gives():
    model, history = train_once("fcn")
    loss, accuracy = loss_and_accuracy(*predict(model, loaders()[1], CPU))
    assert (loss, accuracy) == (history["test_loss"][-1], history["test_accuracy"][-1])


def test_loss_and_accuracy_of_known_logits():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.25, 0.25, 0.5]]))
    loss, accuracy = loss_and_accuracy(logits, torch.tensor([0, 1, 2, 2]))
    assert loss == pytest.approx(-math.log(0.5 * 0.8 * 0.2 * 0.5) / 4, rel=1e-6)
    assert accuracy == 0.75


def test_dropout_is_off_in_predictions_and_on_in_training():
    model = nn.Sequential(NETWORKS["fcn"](), nn.Dropout(0.5))
    _, loader = loaders()
    assert torch.equal(predict(model, loader, CPU)[0], predict(model, loader, CPU)[0])
    train_epoch(model, loader, torch.optim.Adam(model.parameters()), CPU)
    assert model.training


def test_bf16_trains_close_to_float32_and_keeps_float32_weights():
    exact, exact_history = train_once("cnn")
    model, history = train_once("cnn", precision="bf16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history["train_loss"] != exact_history["train_loss"]
    assert history["train_loss"] == pytest.approx(exact_history["train_loss"], rel=0.02)
    assert model.state_dict().keys() == exact.state_dict().keys()

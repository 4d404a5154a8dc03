import math
import re
import subprocess
import sys
from pathlib import Path

from common import cli
from common.train import HISTORY_KEYS, loss_and_accuracy, mean_loss, predict, train, train_step
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import pytest
import torch
from conftest import ROOT, crop_transform, error_of, loaders_of, random_data, run, run_well
from torch import nn

MEAN, STD = torch.full((3,), 127.5), torch.full((3,), 73.9)
NETWORKS = {"fcn": make_fcn, "cnn": make_cnn}
CROSS_ENTROPY = nn.CrossEntropyLoss()


def noise_loaders(count=100):
    return loaders_of(random_data(count), random_data(count), crop_transform(MEAN, STD))


def take_steps(model, optimizer, batches):
    """Take a step for each batch; return the mean loss over images, and the number of correct predictions."""
    steps = [train_step(model, CROSS_ENTROPY, optimizer, *batch) for batch in batches]
    sizes = [len(labels) for _, labels in batches]
    losses = [loss * size for (loss, _), size in zip(steps, sizes, strict=True)]
    return mean_loss(losses, sum(sizes), epoch=1, lr=0), sum(int(correct) for _, correct in steps)


class CountSaves:
    """Replace a TrainingCheckpoint: save nothing, and count the successful epochs in `saved`."""

    saved = 0

    def restore(self, model, optimizer, epochs):
        return None

    def save(self, model, optimizer, history):
        self.saved += 1


def train_with_adam(model, loaders, epochs=2, lr=0.001, seed=0, checkpoint=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    return train(model, CROSS_ENTROPY, optimizer, *loaders, epochs, seed, checkpoint)


def train_once(network, seed=0):
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    return model, train_with_adam(model, noise_loaders(), seed=seed)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(network):
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
        loss, correct = take_steps(model, optimizer, [(crops, labels)])
    assert loss < 0.01
    assert correct == 16


# In float64, rounding errors (about 1e-16) stay far below Adam's epsilon of 1e-8. In float32 they do not, and if a
# gradient is only rounding error, Adam turns it into a step of up to the learning rate.
@pytest.mark.parametrize("network", NETWORKS)
def test_train_step_matches_a_slow_reference_in_plain_torch(network):
    torch.manual_seed(0)
    crops, labels = torch.randn(48, 3, 48, 48, dtype=torch.float64), torch.arange(48) % 8
    batches = [(crops[:32], labels[:32]), (crops[32:], labels[32:])]
    model, reference = NETWORKS[network]().double(), NETWORKS[network]().double()
    reference.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, fused=True)
    loss, correct = take_steps(model, optimizer, batches)

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
    assert loss == pytest.approx(math.fsum(losses) / 48, rel=1e-9)  # per image, because the second batch is smaller
    assert correct == right
    for parameter, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-9)


def test_predictions_are_reproducible_and_do_not_change_the_random_state():
    torch.manual_seed(0)
    model = NETWORKS["cnn"]()
    _, loader = noise_loaders()
    state = torch.get_rng_state()
    logits, labels = predict(model, loader)
    assert logits.shape == (100, 8)
    assert torch.equal(torch.get_rng_state(), state)
    predict(model, loader, 12345, 6)
    assert torch.equal(predict(model, loader)[0], logits)
    assert torch.equal(labels, torch.arange(100) % 8)


def test_loss_and_accuracy_of_known_logits():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.25, 0.25, 0.5]]))
    loss, accuracy = loss_and_accuracy(CROSS_ENTROPY, logits, torch.tensor([0, 1, 2, 2]))
    assert loss == pytest.approx(-math.log(0.5 * 0.8 * 0.2 * 0.5) / 4, rel=1e-6)
    assert accuracy == 0.75


def test_dropout_is_off_in_predictions_and_on_in_training():
    model = nn.Sequential(NETWORKS["fcn"](), nn.Dropout(0.5))
    loaders = noise_loaders()
    assert torch.equal(predict(model, loaders[1])[0], predict(model, loaders[1])[0])
    modes = []
    model[1].register_forward_hook(lambda module, inputs, outputs: modes.append(module.training))
    train_with_adam(model, loaders, epochs=1)
    assert modes == [True] * 2 + [False] * 2  # batches of training, then of the test


# Measured in float64 on `fixed_data`. float32 is within 1e-6 of these values, with AVX-512, AVX2 or neither; a change
# of the order, crops, initial weights or optimizer changes them by 1e-3 or more.
FIRST_LOSSES = {
    "fcn": [2.334730, 1.893725],
    "cnn": [2.081075, 2.064794],
}


def fixed_data():
    """Return 100 images and labels that depend on no random numbers: squares of eight colours on a gradient."""
    index = torch.arange(100)
    labels = index % 8
    rows, columns = torch.arange(69)[:, None], torch.arange(69)
    images = ((rows * 2 + columns + index[:, None, None] * 5) % 160)[:, None].repeat(1, 3, 1, 1)
    for image, label in zip(images, labels, strict=True):
        image[label % 3, 10 + label * 3 : 40 + label * 3, 20:50] += 40 + 7 * label
    return images.to(torch.uint8), labels


@pytest.mark.parametrize("network", NETWORKS)
def test_the_first_losses_match_recorded_values(network):
    torch.manual_seed(0)
    history = train_with_adam(NETWORKS[network](), loaders_of(fixed_data(), fixed_data(), crop_transform(MEAN, STD)))
    assert history["train_loss"] == pytest.approx(FIRST_LOSSES[network], abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinite_loss_stops_the_run_and_names_epoch_and_step(value):
    poisoned, checkpoint = {"step": 0}, CountSaves()

    def criterion(logits, labels):
        poisoned["step"] += logits.requires_grad
        loss = CROSS_ENTROPY(logits, labels)
        return loss * value if poisoned["step"] == 4 + 3 else loss  # the third step of the second epoch

    model = make_fcn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    sentence = "epoch 2, step 3: the loss became NaN or infinite with --lr 0.001: try a lower one"
    with pytest.raises(FloatingPointError, match=sentence):
        train(model, criterion, optimizer, *noise_loaders(200), epochs=5, seed=0, checkpoint=checkpoint)
    assert checkpoint.saved == 1


def test_weights_that_diverge_in_the_last_step_of_an_epoch_are_not_saved():
    checkpoint = CountSaves()
    with pytest.raises(FloatingPointError, match="epoch 1: the test loss became NaN or infinite: try a lower"):
        train_with_adam(make_cnn(), noise_loaders(50), lr=1e30, checkpoint=checkpoint)
    assert checkpoint.saved == 0


def test_too_high_a_learning_rate_gives_one_error_and_keeps_the_old_files(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    (tmp_path / "q3_cnn.json").write_text("earlier run")
    error = error_of(run("q3_cnn.py", "--lr", 1e30, "--out", tmp_path))
    assert re.search(r"epoch 1, .* the .*loss became NaN or infinite with --lr 1e\+30: try a lower one", error)
    assert (tmp_path / "q3_cnn.json").read_text() == "earlier run"
    assert not (tmp_path / "q3_cnn.pt").exists()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from Linux's /proc")
def test_out_of_memory_says_what_to_lower(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    # A limit just above the program's own memory, so that a batch of all images does not fit.
    code = (
        "import resource, sys; import q3_cnn; from common import cli\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 150_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        f"sys.argv = ['q3_cnn.py', '--batch-size', '100000', '--device', 'cpu', '--out', '{tmp_path}']\n"
        "cli.run(q3_cnn.main, trains=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "error: out of memory: lower --batch-size (" in error_of(done)


def test_out_of_memory_on_a_gpu_gives_the_same_error(monkeypatch, capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has 8 GiB")

    with pytest.raises(SystemExit) as status:
        cli.run(main, trains=True)
    assert status.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory: lower --batch-size (CUDA out of memory. Tried")


def test_other_runtime_errors_are_not_hidden():
    def main():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(main, trains=True)


def test_deterministic_changes_nothing_on_a_cpu(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    run_well("q3_cnn.py", "--epochs", 2, "--deterministic", "--device", "cpu", "--out", tmp_path)
    assert (tmp_path / "q3_cnn.pt").read_bytes() == (synthetic_run[0] / "q3_cnn.pt").read_bytes()

"""The verdict on a history, against histories of known kind: a formula for each loss, times seeded noise."""

import numpy as np
import pytest
from common.trend import MIN_EPOCHS, change, stretch_means, verdict

from common.sentences import describe_verdict

DRAWS = 20


def falling_to(floor, pace):
    return lambda t: floor + 1.5 * np.exp(-t / pace)


def valley(at, slope):
    """Fall to a lowest value near epoch `at`, then rise by `slope` per epoch."""
    return lambda t: 0.8 + 1.2 * np.exp(-4 * t / at) + slope * np.maximum(t - at, 0)


def level(value):
    return lambda t: np.full(len(t), float(value))


def hump(at, width, height):
    """Return to the same value after a hump around epoch `at`."""
    return lambda t: 1 + height * np.exp(-(((t - at) / width) ** 2))


def tent(lowest):
    return lambda t: lowest + abs(t - 25) / 25


def line(start, slope):
    return lambda t: start + slope * t


def jump(before, after, at):
    return lambda t: np.where(t < at, before + 1.5 * np.exp(-t / 5), after)


# Name, training loss, test loss, epochs, noise as a share of the test loss (the training loss has half of it), the one
# verdict beside "unclear" that is not wrong, and the share of draws that must be given it: the power.
HISTORIES = [
    ("exponential fall", falling_to(0.2, 20), falling_to(0.3, 20), 50, 0.02, "falling", 0.9),
    ("straight fall", line(2, -0.02), line(2, -0.02), 50, 0.02, "falling", 0.9),
    ("fall by a power", lambda t: 2 * t**-0.5, lambda t: 2 * t**-0.4, 50, 0.01, "falling", 0.9),
    ("slow fall, no noise", lambda t: 2 * t**-0.3, lambda t: 2 * t**-0.2, 50, 0, "falling", 1),
    ("fall of ten epochs", line(2, -0.12), line(2, -0.11), 10, 0.001, "falling", 0.9),
    ("fall of ten epochs, no noise", line(2, -0.12), line(2, -0.11), 10, 0, "falling", 1),
    ("fall of ten epochs, noisy", line(2, -0.12), line(2, -0.11), 10, 0.05, "falling", 0),
    ("fall of twenty epochs", falling_to(0.1, 10), falling_to(0.2, 10), 20, 0.01, "falling", 0.9),
    ("fall of a hundred epochs", falling_to(0.1, 40), falling_to(0.2, 40), 100, 0.03, "falling", 0.9),
    ("fall in much noise", line(2, -0.02), line(2, -0.02), 50, 0.2, "falling", 0),
    ("hump, then fall", line(2, -0.02), lambda t: hump(15, 4, 1)(t) + 1 - 0.02 * t, 50, 0.02, "falling", 0.9),
    ("level", level(0.9), level(1), 50, 0.01, "level", 0.8),
    ("level, scatter as on EFIGI", falling_to(0.8, 15), level(1), 50, 0.026, "level", 0),
    ("level in much noise", falling_to(0.3, 15), level(1), 50, 0.1, "level", 0),
    ("level, no noise", level(0.9), level(1), 50, 0, "level", 1),
    ("level of ten epochs", level(0.9), level(1), 10, 0.003, "level", 0.8),
    ("level of ten epochs, noisy", falling_to(0.3, 5), level(1), 10, 0.03, "level", 0),
    ("level of twenty epochs", level(0.9), level(1), 20, 0.005, "level", 0.8),
    ("level of two hundred epochs", falling_to(0.2, 60), level(1), 200, 0.02, "level", 0.8),
    ("fall, then level", falling_to(0.8, 4), falling_to(0.9, 4), 50, 0.01, "level", 0.8),
    ("level far above the training loss", falling_to(0.01, 5), falling_to(0.93, 3), 50, 0.01, "level", 0.8),
    ("level with growing noise", falling_to(0.3, 15), level(1), 50, lambda t: 0.01 + 0.03 * t / 50, "level", 0),
    ("level, last epoch high", falling_to(0.1, 10), lambda t: 0.48 + 0.07 * (t == 50), 50, 0.03, "level", 0),
    ("level, one high epoch", falling_to(0.1, 10), lambda t: 1 + 0.5 * (t == 44), 50, 0.01, "level", 0),
    ("level, early hump", level(1), hump(4, 1, 0.3), 12, 0.01, "level", 0),
    ("rise of a ten-thousandth", line(0.5, 2e-6), line(0.5, 2e-6), 50, 0, "level", 1),
    ("rise, then back", falling_to(0.2, 15), hump(20, 4, 0.3), 50, 0.01, "level", 0.8),
    ("valley", falling_to(0.05, 15), valley(15, 0.01), 50, 0.02, "overfits", 0.9),
    ("deep valley", falling_to(0.01, 8), valley(8, 0.03), 50, 0.03, "overfits", 0.9),
    ("valley of twenty epochs", falling_to(0.05, 5), valley(6, 0.05), 20, 0.01, "overfits", 0.9),
    ("valley of ten epochs", falling_to(0.05, 4), valley(3, 0.15), 10, 0.002, "overfits", 0),
    ("valley of a hundred epochs", falling_to(0.05, 20), valley(20, 0.008), 100, 0.05, "overfits", 0.9),
    ("valley in much noise", falling_to(0.05, 15), valley(15, 0.01), 50, 0.2, "overfits", 0),
    ("rise from the start", falling_to(0.05, 15), line(1, 0.02), 50, 0.02, "overfits", 0.9),
    ("rise of ten epochs, no noise", falling_to(0.05, 5), line(1, 0.05), 10, 0, "overfits", 1),
    ("rise, training loss level", level(0.5), line(1, 0.02), 50, 0.02, "risen", 0.9),
    ("rise, training loss zero", level(0), line(1, 0.02), 50, 0.02, None, 0),
    ("rise below the training loss", line(2, -0.01), line(0.5, 0.005), 50, 0.01, "risen", 0.9),
    ("both rise", line(1, 0.05), line(1, 0.05), 50, 0.03, "diverged", 0.9),
    ("fall, then both rise", tent(0.3), tent(0.5), 50, 0.03, "diverged", 0.9),
    ("jump to ln 8", jump(0.5, np.log(8), 25), jump(0.8, np.log(8), 25), 50, 0.005, "diverged", 0.5),
    ("jump in the last epochs", jump(0.5, 3, 49), jump(0.8, 3, 49), 50, 0.01, "diverged", 0),
    ("one epoch", level(1.5), level(1.4), 1, 0.02, None, 0),
    ("two epochs", line(2, -0.5), line(2, -0.4), 2, 0.02, None, 0),
    ("five epochs gone wrong", line(1, 1), line(1, 1), 5, 0.02, None, 0),
    ("nine epochs", line(2, -0.2), line(2, -0.2), 9, 0, None, 0),
]  # fmt: skip


def draw(train, test, epochs, noise, seed):
    """Return a history of `epochs`, from the formulas of an epoch and noise that is a share of the loss."""
    rng, t = np.random.default_rng(seed), np.arange(1.0, epochs + 1)
    share = noise(t) if callable(noise) else noise
    losses = (loss(t) * (1 + size * rng.standard_normal(epochs)) for loss, size in ((train, share / 2), (test, share)))
    return dict(zip(("train_loss", "test_loss"), (list(loss) for loss in losses), strict=True))


@pytest.mark.parametrize(("train", "test", "epochs", "noise", "right", "power"), [pytest.param(*row, id=name)
                         for name, *row in HISTORIES])  # fmt: skip
def test_no_verdict_on_a_history_of_known_kind_is_wrong_and_clear_trends_are_seen(
    train, test, epochs, noise, right, power
):
    words = [verdict(draw(train, test, epochs, noise, seed)) for seed in range(DRAWS)]
    assert set(words) <= {right, "unclear"}
    assert words.count(right) >= power * DRAWS


def test_noise_alone_is_seldom_a_trend_even_where_neighbouring_epochs_are_correlated():
    rng, words = np.random.default_rng(0), []
    for _ in range(300):
        noise = rng.standard_normal(51)
        test = 1 + 0.03 * (noise[1:] + 0.21 * noise[:-1])  # neighbours correlate by 0.2
        words.append(verdict({"train_loss": np.linspace(1, 0.5, 50), "test_loss": test}))
    assert set(words) <= {"level", "unclear", "overfits", "falling"}
    assert words.count("overfits") + words.count("falling") <= 3  # expected: 0.6 at most


def test_stretches_are_fifths_counted_from_the_end_and_three_epochs_at_least():
    np.testing.assert_array_equal(stretch_means(range(50)), np.array([4.5, 14.5, 24.5, 34.5, 44.5]))
    np.testing.assert_array_equal(stretch_means(range(52)), np.array([6.5, 16.5, 26.5, 36.5, 46.5]))
    np.testing.assert_array_equal(stretch_means(range(10)), np.array([2.0, 5.0, 8.0]))


def test_the_yardstick_is_blind_to_a_straight_trend_and_right_for_noise():
    share, trend, level = change(line(2, -0.02)(np.arange(50)), -2)
    assert share == pytest.approx(-0.2 / 1.31)
    assert max(trend, level) < 1e-12
    noise = 0.01 * np.random.default_rng(0).standard_normal(20_000)
    slope = np.linspace(1, 2, 20_000)
    _, trend, level = change(slope + noise, -2)
    mean = stretch_means(slope + noise)[-2]
    # Normal quantiles for 1 in 1,000 and 1 in 100, of a difference between two means of 4,000 epochs.
    expected = 1.4 * 0.01 * np.sqrt(2 / 4000) / mean * np.array([3.0902, 2.3263])
    np.testing.assert_allclose([trend, level], expected, rtol=0.03)


HISTORY_OF = {row[5]: row[1:5] for row in reversed(HISTORIES) if row[6] >= 0.8}


@pytest.mark.parametrize(("word", "phrase"), [
    ("overfits", "while the training loss went from"), ("diverged", "the training diverged"),
    ("risen", "whether this is overfitting cannot be told"), ("falling", "was still falling"),
    ("level", "has levelled off")])  # fmt: skip
def test_each_verdict_has_its_sentence_and_no_others(word, phrase):
    sentences = {name: describe_verdict(draw(*row, seed=0)) for name, row in HISTORY_OF.items()}
    assert [name for name, sentence in sentences.items() if phrase in sentence] == [word]


def test_the_sentence_quotes_the_means_it_compares():
    history = {"train_loss": np.linspace(2, 0.5, 50), "test_loss": [1.0] * 10 + [0.8] * 10 + [0.9] * 20 + [1.2] * 10}
    assert "the test loss rose from 0.800 (epochs 11 to 20) to 1.200 (the last 10)" in describe_verdict(history)
    falls = {"train_loss": np.linspace(2, 0.5, 50), "test_loss": np.linspace(2, 1, 50)}
    assert "it averages 1.092 over the last 10 epochs and 1.296 over the 10 before" in describe_verdict(falls)


def test_what_cannot_be_told_is_said_to_be_so_with_the_reason():
    short = {"train_loss": [2.0], "test_loss": [1.0]}
    assert describe_verdict(short) == "From 1 epoch no trend can be told."
    nine = {"train_loss": [1.0] * 9, "test_loss": [1.0] * 9}
    assert describe_verdict(nine) == f"From {MIN_EPOCHS - 1} epochs no trend can be told."
    scatter = np.where(np.arange(50) % 2, 0.8, 1.2)
    noisy = {"train_loss": np.linspace(2, 0.5, 50), "test_loss": scatter - np.linspace(0, 0.1, 50)}
    assert "cannot be told from its scatter" in describe_verdict(noisy)
    assert "the last stretch is the lowest" in describe_verdict(noisy)
    noisy["test_loss"] = scatter + np.linspace(0, 0.1, 50)
    assert "cannot be told from its scatter" in describe_verdict(noisy)
    assert "the last stretch is the lowest" not in describe_verdict(noisy)

"""The synthetic set: its counts, and that what is rendered has the parameters that were sampled."""

from common.galaxies import synthetic
from common.galaxies.facts import CLASS_COUNTS
from common.galaxies.synthetic import colour, radius, render, sample_parameters, synthetic_counts, synthetic_galaxy10

import numpy as np
import pytest
import torch


def whole(count, seed):
    labels, blocks = synthetic_galaxy10(count, seed)
    return labels, np.concatenate(list(blocks))


def test_shapes_types_and_seeds():
    labels, images = whole(70, 0)
    assert images.shape == (70, 69, 69, 3)
    assert images.dtype == labels.dtype == np.uint8
    again, other = whole(70, 0)[1], whole(70, 1)[1]
    assert (images == again).all()
    assert (images != other).any(axis=(1, 2, 3)).all()


def test_class_counts_are_galaxy10s():
    assert tuple(synthetic_counts(21785)) == CLASS_COUNTS
    labels, _ = synthetic_galaxy10(21785, 0)
    assert tuple(np.bincount(labels)) == CLASS_COUNTS
    assert (np.diff(labels[:2000].astype(int)) != 0).mean() > 0.5  # in random order


@pytest.mark.parametrize("count", [40, 41, 500, 3000])
def test_smaller_sets_have_every_class_twice_and_the_same_proportions(count):
    counts = synthetic_counts(count)
    assert counts.sum() == count
    assert counts.min() >= 2
    assert np.abs(counts / count - np.array(CLASS_COUNTS) / 21785).max() < 0.06


def test_fewer_than_forty_are_refused():
    with pytest.raises(ValueError, match="at least 40"):
        synthetic_counts(39)


def bare(labels, **fixed):
    """Parameters without noise, neighbours, offsets or blur to speak of, for measuring what is rendered."""
    parameters = sample_parameters(np.array(labels), np.random.default_rng(0))
    quiet = {"noise": 0.0, "neighbour_brightness": 0.0, "x": 0.0, "y": 0.0, "seeing": 0.3, "brightness": 0.8}
    for name, value in {**quiet, **fixed}.items():
        parameters[name][:] = value
    return parameters


def light(parameters):
    """The rendered light, with the display's stretch undone: float64 (n, 69, 69)."""
    images = render(parameters, torch.Generator().manual_seed(0)).double().mean(-1).numpy()
    shown = (images / 255 - synthetic.SKY) / (1 - synthetic.SKY)
    return np.sinh(shown * np.arcsinh(synthetic.STRETCH)) / synthetic.STRETCH


def test_a_disk_is_exponential():
    scale = 6.0
    parameters = bare([0], axis_ratio=1.0, bulge_fraction=0.0, arm_strength=0.0, log_scale_length=np.log(scale))
    profile = light(parameters)[0, 34, 34:]
    fit = np.polyfit(np.arange(3, 16), np.log(profile[3:16]), 1)
    assert -1 / fit[0] == pytest.approx(scale, rel=0.05)


def test_the_axis_ratio_agrees_with_the_second_moments():
    parameters = bare([0], axis_ratio=0.5, bulge_fraction=0.0, arm_strength=0.0, log_scale_length=np.log(4.0),
                      position_angle=0.0)  # fmt: skip
    flux = light(parameters)[0]
    flux[flux < 0.02] = 0  # an image's steps of 1/255 would count for much, far out
    offset = np.arange(69) - 34
    wide, high = (flux.sum(0) * offset**2).sum(), (flux.sum(1) * offset**2).sum()
    assert np.sqrt(high / wide) == pytest.approx(0.5, abs=0.05)


def test_the_rendered_arms_have_the_pitch_angle():
    for pitch in (12.0, 35.0):
        parameters = bare([9], axis_ratio=1.0, bulge_fraction=0.0, arm_strength=0.6, pitch_angle=pitch, arm_count=2.0,
                          handedness=1.0, position_angle=0.0, log_scale_length=np.log(8.0))  # fmt: skip
        flux = light(parameters)[0]
        azimuth = np.linspace(0, 2 * np.pi, 720, endpoint=False)
        radii = np.arange(8, 24)
        phases = []
        for r in radii:
            ring = flux[np.round(34 + r * np.sin(azimuth)).astype(int), np.round(34 + r * np.cos(azimuth)).astype(int)]
            phases.append(np.angle((ring * np.exp(-2j * azimuth)).sum()))
        winding = np.polyfit(np.log(radii), np.unwrap(phases), 1)[0] / -2  # azimuth an e-folding of radius
        assert np.rad2deg(np.arctan(1 / winding)) == pytest.approx(pitch, rel=0.12)


def test_isophotes_are_ellipses_diamonds_and_boxes():
    axis = torch.tensor([3.0])
    for shape, diagonal in ((2.0, 3 / np.sqrt(2)), (1.0, 1.5), (4.0, 3 / 2**0.25)):
        on_axis = radius(axis, torch.zeros(1), torch.ones(1), torch.tensor(shape))
        across = torch.tensor([diagonal], dtype=torch.float32)
        on_diagonal = radius(across, across, torch.ones(1), torch.tensor(shape))
        torch.testing.assert_close(on_axis, on_diagonal, rtol=1e-3, atol=1e-3)


def test_old_stars_are_redder_than_young_ones():
    young, old = colour(torch.tensor([0.0, 1.0]))
    assert old[0] / old[2] > 1.5 * young[0] / young[2]


def test_classes_differ_as_their_names_say():
    rng = np.random.default_rng(0)
    ratio = {label: sample_parameters(np.full(400, label), rng)["axis_ratio"].mean().item() for label in range(10)}
    assert ratio[1] > ratio[2] > ratio[3]
    assert max(ratio[4], ratio[5], ratio[6]) < 0.3
    pitch = {label: sample_parameters(np.full(400, label), rng)["pitch_angle"].mean().item() for label in (7, 8, 9)}
    assert pitch[7] < pitch[8] < pitch[9]

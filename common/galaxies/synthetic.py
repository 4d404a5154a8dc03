"""Generate a synthetic Galaxy10, for tests and to replace the real one if it cannot be downloaded.

Each galaxy is a bulge with a Sersic (1963) profile on an inclined exponential disk (Freeman 1970), with logarithmic
spiral arms if its class has them, blurred by the seeing, with neighbours and sky noise. The asinh stretch of Lupton et
al. (2004) converts it to a picture, as for SDSS.
"""

from common.galaxies.facts import CLASS_COUNTS
from common.galaxies.hdf5 import create_hdf5
from common.galaxies.split import apportion

import numpy as np
import torch

SIZE = 69  # pixels
BLOCK = 32  # images rendered at once: few enough to stay in the processor's cache
NEIGHBOURS = 3  # at most, in an image
STRETCH = 8.0  # of the asinh: how much brighter than linear the faint parts are shown
SKY = 0.05  # grey level of the empty sky, of 1

# A normal distribution per parameter: mean and standard deviation per class, clipped to the limits. The classes overlap
# so much that the set is as hard as the real one.
# class:   0 no   1 round  2 in-   3 cigar | edge-on:         | spiral:
#          spiral          between         4 bulge 5 boxy 6 none 7 tight 8 medium 9 loose
DISTRIBUTIONS = {
    "axis_ratio": (
        (0.70, 0.93, 0.66, 0.33, 0.24, 0.22, 0.17, 0.82, 0.78, 0.70),
        (0.14, 0.05, 0.10, 0.06, 0.05, 0.04, 0.04, 0.11, 0.12, 0.14),
        (0.10, 1.00),
    ),
    "bulge_fraction": (  # of the central brightness
        (0.26, 0.78, 0.72, 0.60, 0.33, 0.30, 0.03, 0.24, 0.17, 0.10),
        (0.12, 0.14, 0.16, 0.18, 0.10, 0.08, 0.03, 0.10, 0.08, 0.06),
        (0.00, 0.98),
    ),
    "log_scale_length": (  # of the disk, natural logarithm of pixels
        (1.95, 1.62, 1.80, 1.92, 2.15, 2.20, 2.20, 2.02, 2.02, 2.06),
        (0.22, 0.22, 0.22, 0.22, 0.22, 0.20, 0.22, 0.20, 0.20, 0.22),
        (0.90, 2.60),
    ),
    "redness": (  # of the disk: 0 young and blue, 1 old and yellow
        (0.46, 0.80, 0.72, 0.66, 0.60, 0.62, 0.28, 0.36, 0.30, 0.18),
        (0.18, 0.16, 0.16, 0.18, 0.18, 0.15, 0.18, 0.16, 0.15, 0.15),
        (0.00, 1.00),
    ),
    "pitch_angle": (  # of the arms, degrees
        (20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 11.0, 18.0, 35.0),
        (5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 3.0, 3.5, 7.0),
        (5.0, 60.0),
    ),
    "arm_strength": (  # 0 none, 1 black between the arms
        (0.06, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.50, 0.62, 0.72),
        (0.06, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.20, 0.20, 0.20),
        (0.00, 0.95),
    ),
}
OLD_STARS = torch.tensor([1.00, 0.80, 0.48])  # red, green, blue of an old population
YOUNG_STARS = torch.tensor([0.78, 0.88, 1.00])


def synthetic_counts(count, least=2):
    """Return the number of images per class, int64 (10,), in Galaxy10 SDSS's proportion, `count` in all.

    At least `least` per class, so that each can be trained and tested. Raises ValueError below 40 images.
    """
    if count < 40:
        raise ValueError(f"--count {count}: a synthetic set of ten classes needs at least 40 images")
    return apportion(count, np.array(CLASS_COUNTS), low=np.full(10, least), high=np.full(10, count))


def sample_parameters(labels, rng):
    """Sample the parameters of a galaxy for each of `labels`: a dict of float32 (n,) or (n, NEIGHBOURS)."""
    n, neighbours = len(labels), (len(labels), NEIGHBOURS)
    edge_on, smooth = np.isin(labels, (4, 5, 6)), np.isin(labels, (1, 2, 3))
    sampled = {
        name: np.clip(rng.normal(np.array(mean)[labels], np.array(spread)[labels]), *limits)
        for name, (mean, spread, limits) in DISTRIBUTIONS.items()
    }
    puffed_up = np.where(edge_on, rng.uniform(0.55, 0.85, n), 0.3 + 0.7 * sampled["axis_ratio"])
    sampled |= {
        "x": rng.normal(0, 1.2, n),  # of the centre, pixels from the picture's
        "y": rng.normal(0, 1.2, n),
        "position_angle": rng.uniform(0, np.pi, n),
        "brightness": np.exp(rng.normal(0, 0.45, n)),
        # Isophotes are |x|^c + |y|^c: c = 2 an ellipse, 1 the double exponential of a disk from the side, 4 a box.
        "disk_shape": np.where(edge_on, 1.15, 2.0),
        "bulge_shape": np.where(labels == 5, 3.6, 2.0),
        "bulge_axis_ratio": np.where(smooth, sampled["axis_ratio"], puffed_up),
        "bulge_scale": rng.uniform(0.35, 0.75, n),  # half-light radius over the disk's scale length
        "sersic_index": rng.uniform(1.2, 3.5, n),
        "arm_count": rng.choice([2.0, 3.0, 4.0], n, p=[0.7, 0.2, 0.1]),
        "arm_phase": rng.uniform(0, 2 * np.pi, n),
        "handedness": rng.choice([-1.0, 1.0], n),
        "seeing": rng.uniform(1.1, 2.0, n),  # standard deviation of the blur, pixels
        "noise": np.exp(rng.normal(np.log(0.016), 0.5, n)),
        "neighbour_x": rng.uniform(-SIZE / 2, SIZE / 2, neighbours),
        "neighbour_y": rng.uniform(-SIZE / 2, SIZE / 2, neighbours),
        "neighbour_width": np.exp(rng.normal(np.log(1.6), 0.3, neighbours)),
        "neighbour_brightness": (rng.random(neighbours) < 0.3) * rng.exponential(0.35, neighbours),
        "neighbour_redness": rng.uniform(0, 1, neighbours),
    }
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in sampled.items()}


def colour(redness):
    """Return red, green and blue, float32 (..., 3), of stars between young (0) and old (1)."""
    return torch.lerp(YOUNG_STARS, OLD_STARS, redness[..., None])


def radius(u, v, axis_ratio, shape):
    """Return the distance from the centre along the isophotes |u|^shape + |v / axis_ratio|^shape."""
    return (u.abs() ** shape + (v.abs() / axis_ratio) ** shape + 1e-6) ** (1 / shape)


def render(parameters, generator):
    """Render n galaxies from their parameters: uint8 (n, SIZE, SIZE, 3)."""
    p = {name: value.view(-1, 1, 1) for name, value in parameters.items() if value.ndim == 1}
    pixel = torch.arange(SIZE, dtype=torch.float32) - (SIZE - 1) / 2
    x, y = pixel - p["x"], pixel[:, None] - p["y"]
    cosine, sine = torch.cos(p["position_angle"]), torch.sin(p["position_angle"])
    u, v = x * cosine + y * sine, y * cosine - x * sine  # along the major and minor axes

    scale_length = torch.exp(p["log_scale_length"])
    disk_radius = radius(u, v, p["axis_ratio"], p["disk_shape"])
    winding = torch.log(disk_radius / scale_length) / torch.tan(torch.deg2rad(p["pitch_angle"]))
    azimuth = torch.atan2(v / p["axis_ratio"], u) * p["handedness"]
    arms = torch.cos(p["arm_count"] * (azimuth - winding) + p["arm_phase"])
    arms *= p["arm_strength"] * (1 - torch.exp(-((disk_radius / scale_length) ** 2)))  # no arms at the very centre
    disk = torch.exp(-disk_radius / scale_length) * (1 + arms)

    # Sersic: exp(-b_n ((r / r_e)^(1/n) - 1)), b_n = 2n - 1/3 (Ciotti & Bertin 1999); here 1 at the centre.
    bulge_radius = radius(u, v, p["bulge_axis_ratio"], p["bulge_shape"]) / (p["bulge_scale"] * scale_length)
    index = p["sersic_index"]
    bulge = torch.exp(-(2 * index - 1 / 3) * bulge_radius ** (1 / index))
    bulge = bulge * torch.exp(index)  # a cusp loses much of its light to the seeing

    # The seeing: a Gaussian blur as a matrix product from both sides, one matrix per image.
    blur = torch.exp(-((pixel - pixel[:, None]) ** 2) / (2 * p["seeing"] ** 2))
    blur = blur / blur.sum(-1, keepdim=True)
    disk, bulge = blur @ disk @ blur.mT, blur @ bulge @ blur.mT

    disk = disk * p["brightness"] * (1 - p["bulge_fraction"])
    bulge = bulge * p["brightness"] * p["bulge_fraction"]
    disk_colour = colour(parameters["redness"])[:, :, None, None]
    bulge_colour = colour((parameters["redness"] + 0.3).clamp(max=1))[:, :, None, None]
    light = disk[:, None] * disk_colour + bulge[:, None] * bulge_colour
    for k in range(NEIGHBOURS):
        near = {name: value[:, k].view(-1, 1, 1) for name, value in parameters.items() if value.ndim == 2}
        width = 2 * near["neighbour_width"] ** 2
        across, down = (pixel - near["neighbour_x"]) ** 2 / width, (pixel[:, None] - near["neighbour_y"]) ** 2 / width
        star = torch.exp(-down) * torch.exp(-across) * near["neighbour_brightness"]
        light += star[:, None] * colour(parameters["neighbour_redness"][:, k])[:, :, None, None]

    # Galaxy10's images are enlarged from the survey's pixels, so the noise of neighbouring pixels is correlated.
    noise = torch.randn(len(light), 3, SIZE + 1, SIZE + 1, generator=generator)
    noise = noise[..., 1:, :] + noise[..., :-1, :]
    noise = noise[..., 1:] + noise[..., :-1]
    light += noise * p["noise"][:, None] / 2

    mean_light = light.mean(1, keepdim=True).clamp(min=1e-3)
    shown = light * (torch.asinh(STRETCH * mean_light) / np.arcsinh(STRETCH) / mean_light)
    return ((SKY + (1 - SKY) * shown) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def synthetic_galaxy10(count, seed, least=2):
    """Return labels, uint8 (count,), and an iterator over the images in blocks, uint8 (m, SIZE, SIZE, 3).

    The classes have the frequencies of Galaxy10 SDSS, at least `least` images each, in random order that depends only
    on `seed`.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), synthetic_counts(count, least)))
    parameters = sample_parameters(labels, rng)
    generator = torch.Generator().manual_seed(seed)

    def blocks():
        for start in range(0, count, BLOCK):
            block = {name: value[start : start + BLOCK] for name, value in parameters.items()}
            yield render(block, generator).numpy()

    return labels, blocks()


def write_synthetic(path, count, seed, least=2):
    """Write a synthetic Galaxy10 to an HDF5 file in Galaxy10's format, with the attribute `synthetic`.

    Raises ValueError as `synthetic_counts` does, and OSError as `atomic_write` does.
    """
    labels, blocks = synthetic_galaxy10(count, seed, least)
    with create_hdf5(path) as file:
        file.attrs["synthetic"] = True
        file["ans"] = labels
        images = file.create_dataset("images", (count, SIZE, SIZE, 3), np.uint8)
        for number, block in enumerate(blocks):
            images[number * BLOCK : number * BLOCK + len(block)] = block

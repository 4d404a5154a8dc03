"""The eight symmetries of the square, and a transform that applies a random one to each crop."""

import torch
from torch import nn


def transformed(crops, symmetry):
    """Apply one of the eight symmetries of the square, 0 to 7, to crops (..., size, size): a view or a copy."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if symmetry & bit]
    crops = crops.flip(axes) if axes else crops
    return crops.mT if symmetry & 4 else crops


class RandomSymmetry(nn.Module):
    """Flip and rotate each crop by a random symmetry of the square; all eight are equally likely."""

    def sample_params(self, count, generator):
        """Generate the crops' symmetries, int64 (count,), 0 to 7."""
        return torch.randint(8, (count,), generator=generator)

    def forward(self, crops, symmetries=None):
        """Transform crops, float32 (n, 3, size, size), by their symmetries; a single crop by torch's random numbers."""
        if symmetries is None:
            return transformed(crops, int(torch.randint(8, ())))
        # One gather for the whole batch: `sources` has the source of each pixel, for each symmetry.
        n, _, size, _ = crops.shape
        places = torch.arange(size * size, device=crops.device).view(size, size)
        sources = torch.stack([transformed(places, symmetry).flatten() for symmetry in range(8)])
        rows = torch.arange(n, device=crops.device)[:, None] * size**2 + sources[symmetries]
        pixels = crops.permute(0, 2, 3, 1).reshape(-1, 3)[rows.flatten()]
        return pixels.view(n, size, size, 3).permute(0, 3, 1, 2)

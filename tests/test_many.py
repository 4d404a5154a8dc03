"""Networks that take their steps together, and alone."""

import pytest
import torch
from torch import nn

from benchmarks import many
from common.train import train_step
from studies.training import NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_stacked_networks_have_the_losses_of_each_alone(name, dtype, tolerance):
    make_network, lr = NETWORKS[name]
    torch.manual_seed(0)
    models = [make_network().to(dtype) for _ in range(3)]
    batches = [(torch.randn(3, 16, 3, 48, 48, dtype=dtype), torch.randint(8, (3, 16))) for _ in range(8)]
    step = many.stack(models, lr)
    together = torch.stack([step(*batch) for batch in batches])  # (steps, networks)
    for place, model in enumerate(models):
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=lr), []
        for images, labels in batches:
            totals = torch.zeros(3, dtype=dtype)
            train_step(model, nn.CrossEntropyLoss(), optimizer, images[place], labels[place], totals)
            losses.append(totals[0] / 16)
        torch.testing.assert_close(together[:, place], torch.stack(losses), rtol=tolerance, atol=tolerance)


def test_both_are_timed():
    for name in NETWORKS:
        assert many.stacked_time(name, networks=2, steps=2) > 0
        assert many.solo_time(name, steps=2) > 0

"""Many networks at once: all stacked into one, against one process per core with a network each; on the CPU.

The studies train the same small network up to 50 times. Stacked, `--networks` of them take each step together, by
torch.func.vmap with all threads; each has its own weights and its own batch. Otherwise each core has a process with
one thread that trains one network, as the studies do it. Prints milliseconds per network and step, on images of noise.
"""

import copy
import os
import time

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from common import cli
from common.hardware.device import accelerate, adam_options, choose_device
from common.hardware.layers import memory_format
from common.train import train_epoch, train_step
from studies.runs import worker_processes
from studies.training import NETWORKS

EXAMPLES = ("python -m benchmarks.many", "python -m benchmarks.many --networks 16 --steps 100")
BATCH = 64
CPU = torch.device("cpu")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--networks", type=cli.positive_int, default=8, metavar="N", help="networks that are stacked")
    parser.add_argument("--steps", type=cli.positive_int, default=50, metavar="N", help="steps that are timed")
    return parser.parse_args(argv)


def stack(models, lr):
    """Return a function that takes one Adam step of all `models`, of the same layers, at once.

    It takes images, float (k, n, 3, 48, 48), and labels, int64 (k, n), a batch for each of the k models, and returns
    their losses, float (k,), before the step. The weights are copies; those of `models` stay as they are.
    """
    parameters, buffers = stack_module_state(models)
    optimizer = torch.optim.Adam(parameters.values(), lr=lr, **adam_options(CPU))
    layers = copy.deepcopy(models[0]).to("meta")

    def logits_of_one(parameters, buffers, images):
        return functional_call(layers, (parameters, buffers), (images,))

    def step(images, labels):
        logits = vmap(logits_of_one)(parameters, buffers, images)
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        optimizer.zero_grad()
        losses.sum().backward()  # of the other networks' losses, a network's gradients hold nothing
        optimizer.step()
        return losses.detach()

    return step


def batches_of_noise(count):
    """Return `count` batches: images, float32 (count, 64, 3, 48, 48), and labels, int64 (count, 64)."""
    return torch.randn(count, BATCH, 3, 48, 48), torch.randint(8, (count, BATCH))


def milliseconds(function, steps):
    """Return the mean time of a call, in milliseconds, after three calls to warm up."""
    for _ in range(3):
        function()
    start = time.perf_counter()
    for _ in range(steps):
        function()
    return 1000 * (time.perf_counter() - start) / steps


def stacked_time(name, networks, steps):
    """Return milliseconds per network and step of `networks` networks in one."""
    make_network, lr = NETWORKS[name]
    step, batches = stack([make_network() for _ in range(networks)], lr), batches_of_noise(networks)
    return milliseconds(lambda: step(*batches), steps) / networks


def solo_time(name, steps):
    """Return milliseconds per step of one network in this process."""
    make_network, lr = NETWORKS[name]
    model = make_network().to(choose_device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, **adam_options(CPU))
    network, run_epoch = accelerate(model, train_step, train_epoch)
    images, labels = (tensor[0] for tensor in batches_of_noise(1))
    batch = [(images.contiguous(memory_format=memory_format(CPU)), labels)]
    return milliseconds(lambda: run_epoch(network, nn.CrossEntropyLoss(), optimizer, batch), steps)


def main():
    args = get_args()
    choose_device("cpu")
    cores = os.cpu_count() or 1
    print(f"milliseconds per network and step; {cores} cores, torch {torch.__version__}")
    for name in NETWORKS:
        stacked = stacked_time(name, args.networks, args.steps)
        with worker_processes(cores, threads=1) as executor:
            times = list(executor.map(solo_time, [name] * cores, [args.steps] * cores))
        solo = sum(times) / cores / cores
        figures = f"{args.networks} stacked {stacked:.2f}, one process per core {solo:.2f}"
        print(f"{name.upper()}: {figures}: stacked takes {stacked / solo:.2f} times as long")


if __name__ == "__main__":
    cli.run(main)

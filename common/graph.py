"""A training step as a CUDA graph: one launch in place of some eighty."""

import torch

from common.metrics import epoch_means


def capture_cuda_graph(step):
    """Return a function that does what `step` does, as one launch: a captured CUDA graph's replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class GraphedEpoch:
    """`train_epoch` for a ResidentLoader: the same steps, but captured once and then replayed.

    A CUDA graph repeats the same kernels on the same addresses, so each batch's plan is copied to one place
    first. The first WARM_UP steps of a run, as capturing demands, and the last batch of an epoch, which is
    smaller, are taken step by step. `capture` makes a replay of a step; where it fails, all are.
    """

    WARM_UP = 3

    def __init__(self, train_step, capture=capture_cuda_graph):
        self.train_step = train_step
        self.capture = capture
        self.replay = None
        self.steps_taken = 0

    def __call__(self, model, loader, optimizer, device, progress=iter):
        """Train for an epoch; return its mean loss (nats) and accuracy, by sample."""
        model.train()
        plan = loader.plan()
        if self.steps_taken == 0:
            self.sums = torch.zeros(3, device=device)  # of losses, right answers, good steps
            self.where = plan[0].clone()
        self.sums.zero_()

        def step(where):
            self.train_step(model, *loader.cut(where), optimizer, self.sums)

        for where in progress(plan):
            if self.capture and self.steps_taken >= self.WARM_UP and len(where) == len(self.where):
                self.where.copy_(where)
                if self.replay is None:
                    self.replay = self.try_to_capture(lambda: step(self.where), optimizer)
                self.replay()
            else:
                step(where)
            self.steps_taken += 1
        return epoch_means(self.sums, len(loader.labels))

    def try_to_capture(self, step, optimizer):
        """Return a replay of `step`, or `step` itself where it cannot be captured."""
        optimizer.zero_grad()  # the gradients must be made anew inside the graph
        try:
            return self.capture(step)
        except RuntimeError as error:
            print(f"No CUDA graph, so step by step: {str(error).splitlines()[0]}")
            self.capture = None
            return step

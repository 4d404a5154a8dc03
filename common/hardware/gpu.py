"""Training steps as CUDA graphs, so that the GPU does not wait for Python to launch each kernel."""

import torch


def capture_cuda_graph(step):
    """Return a function that replays `step` in one launch, and the tensors that receive its outputs.

    Capturing does not run the step.
    """
    graph = torch.cuda.CUDAGraph()
    # The outer context restores the stream if the capture fails; the inner one does not.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        outputs = step()
    return graph.replay, outputs


class CapturedStep:
    """`train_step` with a model, criterion and optimizer, as a function of images and labels that replays a CUDA graph.

    A graph repeats the same kernels on the same addresses, so each batch is copied to the graph's inputs, and each call
    overwrites the outputs of the previous one. Not replayed are the first WARM_UP steps (capturing requires this),
    steps with smaller batches, and all steps if the capture fails.
    """

    WARM_UP = 3

    def __init__(self, train_step, model, criterion, optimizer, capture=capture_cuda_graph):
        self.train_step, self.arguments, self.optimizer = train_step, (model, criterion, optimizer), optimizer
        self.capture = capture
        self.replay = self.inputs = self.outputs = self.rates = None
        self.batch_size = self.steps_taken = 0

    def __call__(self, images, labels):
        """Take a step; return what `train_step` returns."""
        self.batch_size = self.batch_size or len(labels)
        self.steps_taken += 1
        if self.capture is None or self.steps_taken <= self.WARM_UP or len(labels) != self.batch_size:
            return self.train_step(*self.arguments, images, labels)
        self.inputs = self.inputs or (images.clone(), labels.clone())
        for place, values in zip(self.inputs, (images, labels), strict=True):
            place.copy_(values)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if rates != self.rates:  # the captured kernels use the old rates
            self.optimizer.zero_grad()  # the graph must allocate the gradients itself
            try:
                self.replay, self.outputs = self.capture(lambda: self.train_step(*self.arguments, *self.inputs))
            except RuntimeError as error:
                print(f"No CUDA graph, so each kernel is launched separately: {str(error).splitlines()[0]}")
                self.capture = None
                return self.train_step(*self.arguments, images, labels)
            self.rates = rates
        self.replay()
        return self.outputs

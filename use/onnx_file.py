"""Write a network as an ONNX file that takes pixel values: normalisation and softmax are included."""

import json
import logging
import warnings

from use.ensemble import CROP_SIZE

import torch
from torch import nn

# The lowest versions that support the operators, so that older programs can load the file: onnxruntime 1.12 or later.
OPSET, IR_VERSION = 17, 8
OUTPUTS = ["logits", "probabilities", "features"]


class FromPixels(nn.Module):
    """A network from uint8 crops, channels last, to OUTPUTS."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.layers, self.head = network[:-1], network[-1]
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, crops):
        """Return logits and probabilities, (n, classes), and features, (n, 64), of crops, uint8 (n, 48, 48, 3)."""
        features = self.layers((crops.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        logits = self.head(features)
        return logits, logits.softmax(1), features


def write_onnx(network, record, path):
    """Write `network` with its normalisation as an ONNX file, with the class names in its metadata.

    Input: crops, uint8 (n, 48, 48, 3), any n. Outputs, float32: logits and probabilities (n, classes), and features
    (n, 64), the input of the last layer.
    """
    import onnx

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's deprecation warnings
        program = torch.onnx.export(
            FromPixels(network, record["mean"], record["std"]).eval(),
            (torch.zeros(2, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8),),
            input_names=["crops"],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    model.ir_version = IR_VERSION
    for key in ("class_names", "source", "image_size", "weights_sha256"):
        value = record.get(key)
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())

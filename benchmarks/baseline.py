"""The baseline of `make bench`: ordinary PyTorch training on Galaxy10.

float32 images in memory, torchvision's transforms for one image at a time in __getitem__, a DataLoader, default Adam.
It trains the scripts' networks.
"""

import sys

from q3_cnn import make_cnn

import h5py
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Galaxies(Dataset):
    """float32 images (n, 3, h, w) and int64 labels, one at a time."""

    def __init__(self, images, labels, transform):
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def make_loader(images, labels, mean, std, shuffle):
    """Return a DataLoader over uint8 images, which are converted to float32 once."""
    transform = transforms.Compose([transforms.RandomCrop(48), transforms.Normalize(mean, std)])
    return DataLoader(Galaxies(images.float(), labels, transform), batch_size=64, shuffle=shuffle)


def make_optimizer(model, lr):
    """Return Adam over the trainable parameters."""
    return torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr)


def run_epoch(model, train_loader, test_loader, optimizer, device):
    """Train for one epoch and evaluate; return train loss, train accuracy, test loss and test accuracy."""
    criterion = nn.CrossEntropyLoss()
    metrics = []
    for loader, training in ((train_loader, True), (test_loader, False)):
        model.train(training)
        loss_sum, correct = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.set_grad_enabled(training):
                logits = model(images)
                loss = criterion(logits, labels)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
        metrics += [loss_sum / len(loader.dataset), correct / len(loader.dataset)]
    return metrics


def main():
    """Read a whole Galaxy10 file and train for an epoch, for `bench.py` to measure its memory."""
    path, train_size = sys.argv[1], int(sys.argv[2])
    with h5py.File(path, "r") as file:
        images, labels = np.array(file["images"], dtype=np.float32), np.array(file["ans"], dtype=np.int64)
    images = torch.from_numpy(images).permute(0, 3, 1, 2)[labels < 8]
    labels = torch.from_numpy(labels[labels < 8])
    mean, std = images[:1000].mean((0, 2, 3)), images[:1000].std((0, 2, 3))
    train_loader = make_loader(images[:train_size], labels[:train_size], mean, std, shuffle=True)
    test_loader = make_loader(images[train_size:], labels[train_size:], mean, std, shuffle=False)
    model = make_cnn()
    run_epoch(model, train_loader, test_loader, make_optimizer(model, 0.002), torch.device("cpu"))


if __name__ == "__main__":
    main()

# %% [markdown]
# # Recognizing galaxies with deep neural networks
#
# PHYS-467, assignment 3. The data are colour images of galaxies in ten classes. This notebook trains a fully connected
# and a convolutional network on classes 0-7, compares their errors, and transfers the convolutional network to classes
# 8 and 9.
#
# Import the libraries, and choose the device: a GPU if available.

# %% imports
import hashlib
import http.client
import json
import os
import urllib.request

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads leave their core to other programs

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
print(f"torch {torch.__version__}, computing on {device}")

# %% [markdown]
# Settings. The random seed determines the split, the initial weights and all crops. Environment variables override the
# settings: `GALAXY10_FILE` is the path of the data file if it is not next to this notebook, `GALAXY10_URL` is another
# mirror, and `GALAXY10_EPOCHS` shortens all three training runs for a first try.

# %% settings
SEED = int(os.environ.get("GALAXY10_SEED", 0))
EPOCHS = int(os.environ.get("GALAXY10_EPOCHS", 50))  # for the two networks on classes 0-7
TRANSFER_EPOCHS = int(os.environ.get("GALAXY10_EPOCHS", 20))
DATA_FILE = os.environ.get("GALAXY10_FILE", "Galaxy10.h5")
DATA_URL = os.environ.get("GALAXY10_URL", "https://zenodo.org/records/10844811/files/Galaxy10.h5")
SHA256 = "969a6b1cefcc36e09fffa86febd2f699a4aa19b837ba0427f01b0bc6ded458af"

# %% [markdown]
# ## Question 1: the data
#
# Download Galaxy10.h5 (210 MB) if it does not exist, and keep it only if its checksum matches. Otherwise an incomplete
# download would go unnoticed until much later.

# %% download
if not os.path.exists(DATA_FILE):
    print(f"downloading {DATA_URL} ...")
    try:
        with urllib.request.urlopen(DATA_URL, timeout=60) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise ValueError("its SHA-256 differs: it is incomplete or another file")
        with open(DATA_FILE, "wb") as file:
            file.write(content)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SystemExit(
            f"{DATA_FILE} does not exist and cannot be downloaded from {DATA_URL} ({error}): put Galaxy10.h5, from "
            "https://zenodo.org/records/10844811, next to this notebook, or set $GALAXY10_FILE to its path."
        ) from None

# %% [markdown]
# Read each dataset into a numpy array at once: reading an HDF5 file image by image is slow.

# %% read
with h5py.File(DATA_FILE, "r") as file:
    images, labels = np.array(file["images"]), np.array(file["ans"])
    IS_SYNTHETIC = "synthetic" in file.attrs
DATA = "SYNTHETIC galaxies" if IS_SYNTHETIC else os.path.basename(DATA_FILE)
print(f"{DATA}: images {images.shape} {images.dtype}, labels {labels.shape} {labels.dtype}")

# %% [markdown]
# PyTorch expects the colour channels first, and 64-bit labels. The images stay bytes until they are used, because
# float32 takes four times the memory. The numbers of training images are the assignment's or, for a file other than
# Galaxy10, in the same proportions.

# %% axes
images = torch.tensor(images).permute(0, 3, 1, 2)
labels = torch.tensor(labels, dtype=torch.int64)
is_main = labels < 8
is_galaxy10 = (int(is_main.sum()), int((~is_main).sum())) == (20360, 1425)
MAIN_TRAIN = 18000 if is_galaxy10 else round(18000 / 20360 * int(is_main.sum()))
TRANSFER_TRAIN = 1000 if is_galaxy10 else round(1000 / 1425 * int((~is_main).sum()))
print("images", tuple(images.shape), images.dtype, "labels", tuple(labels.shape), labels.dtype)
print(f"training images: {MAIN_TRAIN:,} of classes 0-7, {TRANSFER_TRAIN:,} of classes 8 and 9")

# %% [markdown]
# The names of the ten classes. [Galaxy10's page](https://astronn.readthedocs.io/en/latest/galaxy10sdss.html) describes
# the images and the votes behind the labels.

# %% class names
CLASS_NAMES = [
    "Disk, Face-on, No Spiral",
    "Smooth, Completely round",
    "Smooth, in-between round",
    "Smooth, Cigar shaped",
    "Disk, Edge-on, Rounded Bulge",
    "Disk, Edge-on, Boxy Bulge",
    "Disk, Edge-on, No Bulge",
    "Disk, Face-on, Tight Spiral",
    "Disk, Face-on, Medium Spiral",
    "Disk, Face-on, Loose Spiral",
]

# %% [markdown]
# Show an example of each class, and its number of images: the classes are strongly imbalanced.

# %% classes
counts = torch.bincount(labels, minlength=10)
figure, axes = plt.subplots(4, 3, figsize=(6, 9.6), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for label, (name, ax) in enumerate(zip(CLASS_NAMES, axes.flat, strict=False)):
    ax.set_title(f"{label}: {counts[label]:,} images\n" + name.replace(", ", "\n", 1), fontsize=10)
    if counts[label]:
        ax.imshow(images[labels == label][0].permute(1, 2, 0))
figure.suptitle(f"The ten classes · {DATA}")
plt.show()

# %% [markdown]
# `MyDataset` holds images and labels. Indexing it converts an image to float32 and applies the transform.


# %% dataset
class MyDataset(Dataset):
    """Images, uint8 (n, 3, height, width), and labels, int64 (n,); `transform` is applied to one float32 image."""

    def __init__(self, data, target, transform=None):
        self.data = data
        self.target = target
        self.transform = transform

    def __len__(self):
        return len(self.target)

    def __getitem__(self, index):
        data = self.data[index].float()
        return (self.transform(data) if self.transform else data), self.target[index]


# %% [markdown]
# Classes 0-7 are the main set; classes 8 and 9 are held back for question 5. Images not used for training are test
# images. The split is stratified, so that even the rarest class is in both subsets.


# %% split
def split(chosen, train_size):
    """Split the images where `chosen` is true; return the indices of `train_size` training images and of the rest."""
    indices = chosen.nonzero().flatten()
    return train_test_split(indices, train_size=train_size, stratify=labels[indices], random_state=SEED)


main_train_indices, main_test_indices = split(is_main, MAIN_TRAIN)
transfer_train_indices, transfer_test_indices = split(~is_main, TRANSFER_TRAIN)

# %% [markdown]
# Compute the mean and standard deviation of each colour channel, for normalisation: over random crops, because the
# networks see crops (whole images have more dark sky, so their mean is lower), and over training images only, so that
# nothing is learned from test images. The images are cropped one by one: a single call would crop all of them at the
# same position.

# %% statistics
torch.manual_seed(SEED)
crop = transforms.RandomCrop(48)
first_crops = torch.stack([crop(image.float()) for image in images[main_train_indices[:1000]]])
mean, std = first_crops.mean((0, 2, 3)), first_crops.std((0, 2, 3))
print("mean", mean.numpy().round(2), "std", std.numpy().round(2))

# %% [markdown]
# The transform crops, then normalises; all four sets use it. The loss expects labels that start at 0, so labels 8 and 9
# become 0 and 1.

# %% datasets
transform = transforms.Compose([transforms.RandomCrop(48), transforms.Normalize(mean, std)])
main_train = MyDataset(images[main_train_indices], labels[main_train_indices], transform)
main_test = MyDataset(images[main_test_indices], labels[main_test_indices], transform)
transfer_train = MyDataset(images[transfer_train_indices], labels[transfer_train_indices] - 8, transform)
transfer_test = MyDataset(images[transfer_test_indices], labels[transfer_test_indices] - 8, transform)
for name in ("main_train", "main_test", "transfer_train", "transfer_test"):
    print(f"{name:15}", len(globals()[name]), "images per class:", torch.bincount(globals()[name].target).tolist())

# %% [markdown]
# Load batches of 64; the last one is smaller. Only the training images are shuffled.

# %% loaders
main_train_loader = DataLoader(main_train, batch_size=64, shuffle=True)
main_test_loader = DataLoader(main_test, batch_size=64)
transfer_train_loader = DataLoader(transfer_train, batch_size=64, shuffle=True)
transfer_test_loader = DataLoader(transfer_test, batch_size=64)
batch, target = next(iter(main_train_loader))
print("a batch:", tuple(batch.shape), batch.dtype, "with labels", tuple(target.shape), target.dtype)

# %% [markdown]
# Check: after normalisation, the crops of all training images must have mean 0 and standard deviation 1.

# %% check
crops = torch.cat([batch for batch, _ in main_train_loader])
normalised_mean, normalised_std = crops.mean((0, 2, 3)), crops.std((0, 2, 3))
print("after normalising: mean", normalised_mean.numpy().round(3), "std", normalised_std.numpy().round(3))
del crops

# %% [markdown]
# ## Question 2: a fully connected network
#
# First, a prediction function for all three networks. The test images are also cropped at random, but identically in
# every epoch: `predict` seeds the crops, and restores torch's random state.


# %% predict
@torch.no_grad()
def predict(model, loader):
    """Return the logits and the labels of all images of a loader, on the CPU."""
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(467)
        pairs = [(model(batch.to(device)).cpu(), target) for batch, target in loader]
    logits, target = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(target)


# %% [markdown]
# The training loop, also for all three networks. Losses are summed over images and divided once, so that the smaller
# last batch is not overweighted. The training loss of each batch is computed before its step.


# %% train
def train(model, optimizer, train_loader, test_loader, epochs):
    """Train `model` in place; return the lists train_loss, test_loss and test_accuracy, one entry per epoch."""
    criterion = nn.CrossEntropyLoss()
    history = {"train_loss": [], "test_loss": [], "test_accuracy": []}
    for epoch in range(epochs):
        model.train()
        loss_sum = count = 0
        for batch, target in train_loader:
            batch, target = batch.to(device), target.to(device)
            loss = criterion(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(target)
            count += len(target)
        logits, target = predict(model, test_loader)
        history["train_loss"].append(float(loss_sum / count))
        history["test_loss"].append(criterion(logits, target).item())
        history["test_accuracy"].append((logits.argmax(1) == target).float().mean().item())
        values = ", ".join(f"{name.replace('_', ' ')} {each[-1]:.3f}" for name, each in history.items())
        print(f"epoch {epoch + 1}/{epochs}: {values}")
    return history


# %% [markdown]
# One hidden layer of 64 units. There is no softmax at the end, because `nn.CrossEntropyLoss` expects logits.

# %% fcn
torch.manual_seed(SEED)
fcn = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 64), nn.ReLU(), nn.Linear(64, 8)).to(device)
fcn_optimizer = torch.optim.Adam(fcn.parameters(), lr=0.001)
print(fcn, f"\n{sum(parameter.numel() for parameter in fcn.parameters()):,} parameters")

# %% [markdown]
# Train for `EPOCHS` epochs with Adam, and record the losses and the test accuracy of each epoch.

# %% fcn training
fcn_history = train(fcn, fcn_optimizer, main_train_loader, main_test_loader, EPOCHS)

# %% [markdown]
# Plot the learning curves. A test loss that rises while the training loss falls is the sign of overfitting.


# %% fcn curves
def show_curves(history, title):
    """Draw the losses and the test accuracy of a training run."""
    epochs = range(1, len(history["test_loss"]) + 1)
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(6, 5.6), layout="constrained")
    top.plot(epochs, history["train_loss"], marker=".", label="train (running mean)")
    top.plot(epochs, history["test_loss"], marker=".", label="test")
    top.set(ylabel="cross entropy")
    top.legend()
    bottom.plot(epochs, 100 * np.array(history["test_accuracy"]), marker=".", color="tab:orange")
    bottom.set(xlabel="epoch", ylabel="test accuracy (%)")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{title} · {DATA}")
    plt.show()


show_curves(fcn_history, "Fully connected network")

# %% [markdown]
# ## Question 3: a convolutional network
#
# Two convolutions with 5 x 5 filters, each followed by ReLU and max-pooling, and two linear layers give 64 features; a
# linear head maps them to eight logits. The backbone and the head are separate modules, for question 5.


# %% cnn
def make_backbone():
    """Return a backbone: crops (n, 3, 48, 48) to features (n, 64)."""
    return nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(8, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(16 * 9 * 9, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
    )


torch.manual_seed(SEED)
cnn_backbone = make_backbone()
classifier_head = nn.Linear(64, 8)
cnn = nn.Sequential(cnn_backbone, classifier_head).to(device)
cnn_optimizer = torch.optim.Adam(cnn.parameters(), lr=0.002)
print(cnn, f"\n{sum(parameter.numel() for parameter in cnn.parameters()):,} parameters")

# %% [markdown]
# Use the same training loop, so that the two networks can be compared.

# %% cnn training
cnn_history = train(cnn, cnn_optimizer, main_train_loader, main_test_loader, EPOCHS)
show_curves(cnn_history, "Convolutional network")

# %% [markdown]
# Compare both networks on the same test images. The baseline always predicts the majority class of the training set.

# %% comparison
majority = torch.bincount(main_train.target).argmax()
print(f"majority class {(main_test.target == majority).float().mean():.1%}")
for name, history in (("FCN", fcn_history), ("CNN", cnn_history)):
    print(f"{name} {history['test_accuracy'][-1]:.1%}, test loss {history['test_loss'][-1]:.3f}")

# %% [markdown]
# ## Question 4: confusion matrices
#
# Compute the confusion matrices on the whole test set: rows are true classes, columns are predicted classes.


# %% confusion
def count_confusion(model, loader):
    """Return the confusion matrix of a network on the images of a loader, int (8, 8), rows by true class."""
    logits, target = predict(model, loader)
    return confusion_matrix(target, logits.argmax(1), labels=range(8))


fcn_confusion = count_confusion(fcn, main_test_loader)
cnn_confusion = count_confusion(cnn, main_test_loader)
print("FCN", fcn_confusion.shape, "CNN", cnn_confusion.shape, f"of {len(main_test):,} test images")

# %% [markdown]
# Plot the matrices; the errors are off the diagonal.

# %% confusion pictures
short_names = [name.rpartition(", ")[2] for name in CLASS_NAMES[:8]]
figure, axes = plt.subplots(2, figsize=(6, 11), layout="constrained")
for ax, matrix, title in zip(axes, (fcn_confusion, cnn_confusion), ("FCN", "CNN"), strict=True):
    shown = ConfusionMatrixDisplay(matrix, display_labels=short_names)
    shown.plot(ax=ax, cmap="Blues", xticks_rotation="vertical", values_format=",d", colorbar=False)
    ax.set_title(f"{title}: {np.trace(matrix) / matrix.sum():.1%} correct")
figure.suptitle(f"Confusion on the test set · {DATA}")
plt.show()

# %% [markdown]
# Is it the imbalance? For each class, print the number of training and test images, and the recall of both networks.

# %% recall
train_counts = torch.bincount(main_train.target, minlength=8)
print(f"{'class':16}{'train':>7}{'test':>6}{'FCN':>5}{'CNN':>5}")
for label, name in enumerate(short_names):
    rows = fcn_confusion[label], cnn_confusion[label]
    recalls = [row[label] / row.sum() if row.any() else float("nan") for row in rows]
    print(f"{name:16}{train_counts[label]:7,}{cnn_confusion[label].sum():6,}{recalls[0]:5.0%}{recalls[1]:5.0%}")

# %% [markdown]
# ## Question 5: transfer to two new classes
#
# Freeze the backbone, and pass only the 130 parameters of a new head to Adam, so that nothing else can change.

# %% transfer
for parameter in cnn_backbone.parameters():
    parameter.requires_grad = False
torch.manual_seed(SEED)
transfer_head = nn.Linear(64, 2)
transfer_model = nn.Sequential(cnn_backbone, transfer_head).to(device)
transfer_optimizer = torch.optim.Adam(transfer_head.parameters(), lr=0.005)

# %% [markdown]
# Use the same training loop, for `TRANSFER_EPOCHS` epochs. A copy of the backbone's weights shows that they do not
# change.

# %% transfer training
frozen = [parameter.clone() for parameter in cnn_backbone.parameters()]
transfer_history = train(
    transfer_model, transfer_optimizer, transfer_train_loader, transfer_test_loader, TRANSFER_EPOCHS
)
same = all(torch.equal(*pair) for pair in zip(frozen, cnn_backbone.parameters(), strict=True))
print("the backbone is unchanged:", same)
show_curves(transfer_history, "Transfer")

# %% [markdown]
# What are the features worth? The control is an untrained backbone. For each backbone, scikit-learn fits the linear
# head with the lowest training loss, on the features of one crop per training image. C is so large that there is
# practically no regularisation, as in training.

# %% control
torch.manual_seed(SEED)
untrained_backbone, control = make_backbone().to(device), {"test_images": len(transfer_test)}
for name, backbone in (("trained", cnn_backbone), ("untrained", untrained_backbone)):
    (features, target), (test_features, test_target) = (
        predict(backbone, loader) for loader in (transfer_train_loader, transfer_test_loader)
    )
    head = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, target)
    control[name] = head.score(test_features, test_target)
    print(f"logistic regression on the {name} backbone: {control[name]:.1%}")
majority = torch.bincount(transfer_train.target).argmax()
control["majority"] = (transfer_test.target == majority).float().mean().item()
print(f"majority class: {control['majority']:.1%}")

# %% [markdown]
# Save the weights and the results.

# %% save
for name, model in (("fcn", fcn), ("cnn", cnn), ("transfer", transfer_model)):
    torch.save({key: value.cpu() for key, value in model.state_dict().items()}, f"{name}.pt")
results = {"data": DATA, "seed": SEED, "fcn": fcn_history, "cnn": cnn_history, "transfer": transfer_history}
results["confusion"] = {"fcn": fcn_confusion.tolist(), "cnn": cnn_confusion.tolist()}
results |= {"class_names": CLASS_NAMES, "train_counts": train_counts.tolist(), "control": control}
results |= {"normalised_mean": normalised_mean.tolist(), "normalised_std": normalised_std.tolist()}
with open("results.json", "w") as file:
    json.dump(results, file)
print("wrote fcn.pt, cnn.pt, transfer.pt and results.json")

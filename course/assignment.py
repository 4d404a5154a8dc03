# %% [markdown]
# # Recognizing galaxies with deep neural networks
#
# PHYS-467, assignment 3: 20 points. [Galaxy10 SDSS](https://astronn.readthedocs.io/en/latest/galaxy10sdss.html) holds
# 21,785 colour pictures of galaxies, 69 x 69 pixels, in ten classes. You train two networks on classes 0-7, compare
# what they confuse, and transfer what one of them has learned to classes 8 and 9. Hand in this one notebook, with code,
# plots, results and discussion.
#
# Write your code where it says `# your code here`, in as many lines as you need. Keep the given variable names; the
# grading tests rely on them. Do not change, split or delete the other cells. Each question ends with checks that you
# can run; they show mistakes, but not all of them. What is marked *beyond the assignment* is worth no points. Before you
# hand in, restart the kernel and run all cells, and save the notebook with its output.
#
# The time to run all cells of a question, estimated and not measured on Colab: with two CPU cores 1 minute for
# questions 1, 4 and 5 each, 5 for question 2, 12 for question 3; with a GPU (*Runtime, Change runtime type*) 4 minutes
# for questions 2 and 3 each, as the CPU still crops the images. Try your code with fewer epochs first.

# %% [markdown] id="name" open=true
# **Your name and student number:**
#
# **Who helped you:**

# %% given="imports"

# %% given="settings"
# The marking sets other values and a smaller file: use these names, not the numbers.
if "NBGRADER_EXECUTION" in os.environ:
    DATA_FILE = "Galaxy10.h5"


def need(*names):
    """Stop with a sentence when a name that the checks look for does not exist."""
    for name in names:
        assert name in globals(), f"{name} is missing: was it renamed? Otherwise its cell has not run."


def output_of(network):
    """Return the shape of what a network makes of two crops as text, or the error that it raises."""
    try:
        return f"outputs of shape {tuple(network(torch.zeros(2, 3, 48, 48, device=device)).shape)}"
    except Exception as error:
        return f"an error ({error})"


# %% [markdown]
# ## Question 1: loading and preparing the data (5 points)
#
# Get the file, read it, split it into four sets, and prepare random crops of 48 x 48 pixels, normalised by the mean and
# the standard deviation of each colour channel. The loaders give batches of 64; only the training images are shuffled.

# %% solution="download, read"
# images, labels: numpy arrays of the datasets "images" and "ans" in DATA_FILE. Download it from DATA_URL if it does not
# exist. Hint: torch reads from HDF5 very slowly, image by image, so make numpy arrays first.

# %% given="axes"

# %% given="dataset"

# %% given="class names"

# %% solution="classes"
# Show a picture of each class and the number of its images. Hint: imshow needs the colours last.

# %% solution="split"
# Split classes 0-7 into MAIN_TRAIN training images and the rest for testing, classes 8 and 9 into TRANSFER_TRAIN and
# the rest. Hint: how does every class, even the one of 17 images, get into both halves?

# %% solution="statistics"
# mean, std: of each colour channel, over random crops of 1,000 training images of classes 0-7. Hints: why crops, and why
# training images only? The images are bytes: without .float() torch has no mean of them ("Got: Byte").

# %% solution="datasets"
# transform: a transforms.Compose of the random crop and transforms.Normalize.
# main_train, main_test, transfer_train, transfer_test: instances of MyDataset, all with this transform. Hint: the loss
# expects labels that begin at 0, so 8 and 9 become 0 and 1.

# %% solution="loaders, check"
# main_train_loader, main_test_loader, transfer_train_loader, transfer_test_loader. Beyond the assignment: print the mean
# and the standard deviation of the training crops after normalising. What should they be?

# %% [markdown] points=1 id="q1_text"
# *(1 point) How are the classes distributed? What does this imply for training, and for accuracy as a metric? Beyond the
# assignment: how do you know that the normalisation worked?*
#
# ### BEGIN SOLUTION
# The dots stand for numbers; any are right that agree with the student's own output.
#
# **Full (1):** "Class 1 has … training images and class 5 only …, a ratio of …. The rare classes hardly count in the loss,
# and the accuracy says little about them: always predicting class 1 is already correct on … %."
#
# **Half (0.5):** "Class 1 has … images and class 5 only …." Nothing on what follows for training or for the accuracy.
#
# **None (0):** "The data are unbalanced." No number; or numbers that are not in the output.
# ### END SOLUTION


# %% id="q1_check"
def check_question_1():
    """Look for mistakes in question 1."""
    need("images", "labels", "main_train", "main_test", "transfer_train", "transfer_test", "mean", "std")
    assert images.ndim == 4 and images.shape[1] == 3, (
        "images must be (n, 3, 69, 69): run the cell that permutes them once"
    )
    sizes = {"main": (MAIN_TRAIN, int((labels < 8).sum())), "transfer": (TRANSFER_TRAIN, int((labels >= 8).sum()))}
    for task, (train_size, total) in sizes.items():
        train_set, test_set = globals()[f"{task}_train"], globals()[f"{task}_test"]
        assert len(train_set) == train_size, f"{task}_train has {len(train_set):,} images, not {train_size:,}"
        assert len(train_set) + len(test_set) == total, (
            f"{task}_train and {task}_test do not add up to {total:,} images"
        )
        pixels = [
            {hash(torch.as_tensor(image).numpy().tobytes()) for image in each.data} for each in (train_set, test_set)
        ]
        shared = len(pixels[0] & pixels[1])
        assert shared <= len(test_set) / 100, f"{shared:,} images are both in {task}_train and in {task}_test"
        classes = set(torch.as_tensor(train_set.target).tolist())
        assert classes <= set(range(8 if task == "main" else 2)), f"{task}_train has the labels {sorted(classes)}"
    crop, _ = main_train[0]
    assert tuple(crop.shape) == (3, 48, 48), f"main_train[0] gives a crop of {tuple(crop.shape)}, not (3, 48, 48)"
    assert abs(crop.mean()) < 3, (
        f"a crop has a mean of {crop.mean():.0f}: does the transform end in transforms.Normalize?"
    )
    need("main_train_loader", "main_test_loader", "transfer_train_loader", "transfer_test_loader")
    batch, _ = next(iter(main_train_loader))
    assert tuple(batch.shape) == (64, 3, 48, 48), f"a batch is {tuple(batch.shape)}, not (64, 3, 48, 48)"
    print("The checks of question 1 pass.")


check_question_1()

# %% points=0.5 id="q1_read"
# Marked, half a point: images and labels are those of the file.
### BEGIN HIDDEN TESTS
with h5py.File(DATA_FILE, "r") as _file:
    _file_images, _file_labels = np.array(_file["images"]), np.array(_file["ans"]).astype(int)


def _bytes(data):
    """Images of any type and scale as bytes, the colours first, one key each."""
    data = torch.as_tensor(data).float()
    scale = 255 if data.max() <= 1 else 1
    return [image.numpy().tobytes() for image in (data * scale).round().byte()]


_label_of = dict(zip(_bytes(torch.tensor(_file_images).permute(0, 3, 1, 2)), _file_labels, strict=True))
_is_main = _file_labels < 8


def _own_data():
    """Data and loaders for the questions after this one, where it did not succeed."""
    torch.manual_seed(0)
    made = {}
    for task, classes in (("main", 8), ("transfer", 2)):
        for subset, count in (("train", 256), ("test", 96)):
            target = torch.arange(count) % classes
            data = torch.randn(count, 3, 48, 48) + target[:, None, None, None] / 4
            made[f"{task}_{subset}"] = torch.utils.data.TensorDataset(data, target)
            made[f"{task}_{subset}"].data, made[f"{task}_{subset}"].target = data, target
            made[f"{task}_{subset}_loader"] = DataLoader(made[f"{task}_{subset}"], 64, shuffle=subset == "train")
    return made


def _usable(loader):
    try:
        batch, target = next(iter(globals()[loader]))
        return tuple(batch.shape[1:]) == (3, 48, 48) and batch.is_floating_point() and len(target) == len(batch)
    except Exception:
        return False


assert np.array_equal(np.asarray(labels), _file_labels), "labels are not those of the file"
assert set(_bytes(images[:100])) == set(list(_label_of)[:100]), "images are not those of the file"
### END HIDDEN TESTS

# %% points=0.5 id="q1_sizes"
# Marked, half a point: the numbers of images of the four sets.
### BEGIN HIDDEN TESTS
_train = {"main": round(18000 / 20360 * _is_main.sum()), "transfer": round(1000 / 1425 * (~_is_main).sum())}
_total = {"main": _is_main.sum(), "transfer": (~_is_main).sum()}
for _task in ("main", "transfer"):
    _sizes = [len(globals()[f"{_task}_{_subset}"]) for _subset in ("train", "test")]
    assert _sizes == [_train[_task], _total[_task] - _train[_task]], f"{_task}: {_sizes} images to train and to test"
### END HIDDEN TESTS

# %% points=0.5 id="q1_disjoint"
# Marked, half a point: no image is in two of the sets.
### BEGIN HIDDEN TESTS
for _task in ("main", "transfer"):
    _keys = [_bytes(globals()[f"{_task}_{_subset}"].data) for _subset in ("train", "test")]
    assert all(len(set(keys)) == len(keys) for keys in _keys), f"{_task}: an image is twice in a set"
    assert not set(_keys[0]) & set(_keys[1]), f"{_task}: images to test are among those to train on"
### END HIDDEN TESTS

# %% points=0.5 id="q1_labels"
# Marked, half a point: each image has its own label, 0-7, or 0 and 1 in the transfer sets.
### BEGIN HIDDEN TESTS
for _task, _first in (("main", 0), ("transfer", 8)):
    for _subset in ("train", "test"):
        _set = globals()[f"{_task}_{_subset}"]
        _expected = [_label_of[key] - _first for key in _bytes(_set.data)]
        assert torch.as_tensor(_set.target).tolist() == _expected, f"{_task}_{_subset}: the labels are not right"
### END HIDDEN TESTS

# %% points=0.5 id="q1_statistics"
# Marked, half a point: mean and std are those of random crops of training images.
### BEGIN HIDDEN TESTS
torch.manual_seed(1)
_data = torch.as_tensor(main_train.data).float()
_crops = torch.cat([transforms.RandomCrop(48)(image) for _ in range(3) for image in _data[:1000].unsqueeze(1)])
for _name, _value, _expected in (("mean", mean, _crops.mean((0, 2, 3))), ("std", std, _crops.std((0, 2, 3)))):
    _value = torch.as_tensor(_value).flatten().float()
    _scale = 255 if (_expected / _value).median() > 50 else 1  # divided by 255 after the images were stored
    assert torch.allclose(_value * _scale, _expected, rtol=0.06), f"{_name} is {_value}, about {_expected} was expected"
### END HIDDEN TESTS

# %% points=0.5 id="q1_transform"
# Marked, half a point: main_train gives normalised crops of 48 x 48 pixels, at random places.
### BEGIN HIDDEN TESTS
_crops = torch.stack([main_train[i][0] for i in range(64)])
assert tuple(_crops.shape) == (64, 3, 48, 48), f"a crop is {tuple(_crops.shape[1:])}"
assert abs(_crops.mean()) < 0.4, f"the crops have a mean of {_crops.mean():.2f}"
assert 0.6 < _crops.std() < 1.5, f"the crops have a standard deviation of {_crops.std():.2f}"
assert len({main_train[0][0].numpy().tobytes() for _ in range(10)}) > 3, "the crops of an image are always the same"
### END HIDDEN TESTS

# %% points=0.5 id="q1_train_loader"
# Marked, half a point: the training loader gives all images in batches of 64, each time in another order.
### BEGIN HIDDEN TESTS
_passes = [torch.cat([target for _, target in main_train_loader]).tolist() for _ in range(2)]
assert _passes[0] != _passes[1], "the training loader is not shuffled"
assert len(_passes[0]) >= len(main_train) // 64 * 64, "the training loader leaves images out"
assert len(next(iter(main_train_loader))[1]) == 64, "the batch size is not 64"
### END HIDDEN TESTS

# %% points=0.5 id="q1_test_loader"
# Marked, half a point: the test loader gives all test images in their order.
### BEGIN HIDDEN TESTS
_mine = {f"{task}_{subset}_loader": None for task in ("main", "transfer") for subset in ("train", "test")}
_mine = {name: globals().get(name) for name in _mine}
_made = _own_data()
for _name in _mine:
    if not _usable(_name):
        globals()[_name], globals()[_name.removesuffix("_loader")] = _made[_name], _made[_name.removesuffix("_loader")]
_loader = _mine["main_test_loader"]
assert _loader is not None, "main_test_loader is missing: was it renamed?"
_passes = [torch.cat([target for _, target in _loader]).tolist() for _ in range(2)]
assert _passes[0] == _passes[1] == torch.as_tensor(main_test.target).tolist(), "the test loader is shuffled"
### END HIDDEN TESTS

# %% [markdown]
# ## Question 2: a fully connected network (5 points)
#
# One hidden layer of 64 units with ReLU, and eight outputs: logits, since `nn.CrossEntropyLoss` contains the softmax.
# Train it for EPOCHS epochs with Adam and a learning rate of 0.001. Record the training loss of each epoch, and after it
# the loss and the accuracy on the test images.

# %% solution="predict, train"
# Define train(model, optimizer, train_loader, test_loader, epochs), which you can use for all three networks. It returns
# a dict of three lists with one entry per epoch: train_loss and test_loss (means over the images) and test_accuracy.
# Hint: gradients add up from step to step unless they are cleared, and the test images must not change the network.

# %% solution="fcn"
# fcn: the network, on the device; fcn_optimizer: its optimizer.

# %% solution="fcn training"
# fcn_history: what train returns for fcn.

# %% solution="fcn curves"
# Plot the losses and the accuracy against the epoch.

# %% [markdown] points=1 id="q2_curves"
# *(1 point) Describe the curves: how the losses fall, and whether the network overfits.*
#
# ### BEGIN SOLUTION
# **Full (1):** "The training loss falls from … to … and is still falling at the end. The test loss is lowest, …, after
# epoch … and ends at …: since then it has risen while the training loss fell, so the network overfits." Or: "The test
# loss ends at …, close to its lowest value, …: it does not overfit yet." Either is right if the curves show it.
#
# **Half (0.5):** "The training loss falls to … and the test loss to …." Nothing on overfitting; or overfitting inferred
# from the accuracy alone.
#
# **None (0):** "The loss goes down and the accuracy goes up." No number; or a course that is not the plotted one.
# ### END SOLUTION

# %% [markdown] points=0.5 id="q2_accuracy"
# *(half a point) How well does it do? Beyond the assignment: compare it with always predicting the majority class.*
#
# ### BEGIN SOLUTION
# **Full (0.5):** "At the end … % of the test images are classified correctly." **None (0):** "It works well."
# ### END SOLUTION


# %% id="q2_check"
def check_question_2():
    """Look for mistakes in question 2."""
    need("train", "fcn", "fcn_optimizer", "fcn_history")
    parameters = sum(parameter.numel() for parameter in fcn.parameters())
    assert parameters == 442952, f"fcn has {parameters:,} parameters, not 442,952"
    assert "(2, 8)" in output_of(fcn), f"fcn makes {output_of(fcn)} of two crops, not 8 logits each: (2, 8)"
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert name in fcn_history, f"fcn_history has no list {name}"
        assert len(fcn_history[name]) == EPOCHS, (
            f"fcn_history has {len(fcn_history[name])} {name}, not one for each epoch"
        )
    print("The checks of question 2 pass.")


check_question_2()

# %% points=0.5 id="q2_layers"
# Marked, half a point: the sizes of the layers.
### BEGIN HIDDEN TESTS
_linear = [tuple(m.weight.shape) for m in fcn.modules() if isinstance(m, nn.Linear)]
assert _linear == [(64, 6912), (8, 64)], f"the linear layers have weights of {_linear}"
### END HIDDEN TESTS

# %% points=0.5 id="q2_relu"
# Marked, half a point: the hidden layer is not linear.
### BEGIN HIDDEN TESTS
torch.manual_seed(2)
_a, _b = torch.randn(2, 16, 3, 48, 48, device=device)
with torch.no_grad():
    _logits = [fcn(x) for x in (_a, _b, _a + _b, 0 * _a)]
assert not torch.allclose(_logits[0] + _logits[1], _logits[2] + _logits[3], atol=1e-3), "there is no ReLU in between"
### END HIDDEN TESTS


# %% points=0.5 id="q2_logits"
# Marked, half a point: the loss gets logits, not probabilities.
### BEGIN HIDDEN TESTS
class _Spy(torch.optim.SGD):
    """An optimizer that changes nothing and keeps the gradients of each step."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.gradients = []

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        self.gradients.append(torch.cat([p.grad.detach().flatten().clone() for p in parameters]))
        return super().step(closure)


def _train_small():
    """Run the student's `train` with weights that stay: three batches to train, two of them equal, and five to test."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 8)).to(device)
    first, last = torch.randn(16, 3, 48, 48), 5 * torch.randn(16, 3, 48, 48)
    images, target = torch.cat((first, first, last)), torch.arange(16).repeat(3) % 8
    test_images, test_target = torch.cat((last, last, torch.randn(48, 3, 48, 48))), torch.arange(16).repeat(5) % 8
    loaders = [
        DataLoader(torch.utils.data.TensorDataset(*pair), batch_size=16)
        for pair in ((images, target), (test_images, test_target))
    ]
    optimizer = _Spy(model)
    history = train(model, optimizer, *loaders, 2)
    with torch.no_grad():
        logits, test_logits = (model(x.to(device)).cpu() for x in (images, test_images))
    losses = {}
    entropy = nn.functional.cross_entropy
    for kind in ("logits", "softmax"):
        outputs, others = (each.softmax(1) if kind == "softmax" else each for each in (logits, test_logits))
        each = [entropy(outputs[i : i + 16], target[i : i + 16]).item() for i in (0, 16, 32)]
        losses[kind] = {"mean": sum(each) / 3, "last": each[2], "test": entropy(others, test_target).item()}
    accuracy = (test_logits.argmax(1) == test_target).float().mean().item()
    return history, optimizer.gradients, losses, accuracy


_small_error = None
try:
    _history, _gradients, _losses, _accuracy = _train_small()
    _logged = float(_history["train_loss"][0])
except Exception as _error:
    _small_error, _history, _gradients, _logged = repr(_error), {}, [], float("nan")
_gap = lambda kind: min(abs(_logged - value) for value in _losses[kind].values())
_is_softmax = isinstance(list(fcn.modules())[-1], (nn.Softmax, nn.LogSoftmax))
assert not _is_softmax, "fcn ends in a softmax, and nn.CrossEntropyLoss has one already"
assert _small_error is None, f"train did not run on a small example: {_small_error}"
assert _gap("logits") <= _gap("softmax"), "train puts a softmax before nn.CrossEntropyLoss, which has one already"
### END HIDDEN TESTS


# %% points=0.5 id="q2_optimizer"
# Marked, half a point: Adam over all parameters, with the learning rate that was asked for.
### BEGIN HIDDEN TESTS
def _check_optimizer(optimizer, parameters, lr):
    assert type(optimizer) is torch.optim.Adam, f"the optimizer is {type(optimizer).__name__}, not Adam"
    assert all(float(group["lr"]) == lr for group in optimizer.param_groups), f"the learning rate is not {lr}"
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in parameters}, "the optimizer does not have the parameters it should have"


_check_optimizer(fcn_optimizer, fcn.parameters(), 0.001)
### END HIDDEN TESTS

# %% points=0.5 id="q2_gradients"
# Marked, half a point: each step starts from new gradients.
### BEGIN HIDDEN TESTS
assert len(_gradients) > 1, f"train did not run on a small example: {_small_error}"
assert torch.allclose(_gradients[0], _gradients[1], rtol=1e-3, atol=1e-6), "gradients add up: where is zero_grad?"
### END HIDDEN TESTS

# %% points=0.5 id="q2_training_images"
# Marked, half a point: one step for each batch of training images, and none for test images.
### BEGIN HIDDEN TESTS
assert len(_gradients) == 2 * 3, (
    f"{len(_gradients)} steps in two epochs of 3 training and 5 test batches ({_small_error})"
)
### END HIDDEN TESTS

# %% points=0.5 id="q2_history"
# Marked, half a point: the losses are means over all images, and the accuracy is that on the test images.
### BEGIN HIDDEN TESTS
_usable_train = _small_error is None
if not _usable_train:  # for the questions after this one

    def train(model, optimizer, train_loader, test_loader, epochs):
        for _ in range(epochs):
            for x, y in train_loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
                optimizer.step()
        return {name: [0.0] * epochs for name in ("train_loss", "test_loss", "test_accuracy")}


if "fcn" not in globals():
    fcn = nn.Sequential(nn.Flatten(), nn.Linear(6912, 64), nn.ReLU(), nn.Linear(64, 8)).to(device)
assert _usable_train, f"train did not run on a small example: {_small_error}"
_kind = "logits" if _gap("logits") <= _gap("softmax") else "softmax"
_close = lambda value, expected: abs(float(value) - expected) < 0.02 * abs(expected) + 1e-4
assert all(len(_history[name]) == 2 for name in ("train_loss", "test_loss", "test_accuracy")), "one entry an epoch"
_means = (_losses[_kind]["mean"], _losses[_kind]["test"])  # which images are trained on is marked elsewhere
assert any(_close(_logged, mean) for mean in _means), "train_loss is not the mean over the batches of the epoch"
assert any(_close(_history["test_accuracy"][0], scale * _accuracy) for scale in (1, 100)), "test_accuracy is not right"
### END HIDDEN TESTS

# %% [markdown]
# ## Question 3: a convolutional network (5 points)
#
# Backbone: a convolution of 8 filters of 5 x 5, ReLU, max-pooling by 2, a convolution of 16 filters of 5 x 5, ReLU,
# max-pooling by 2, flatten, linear layers of 128 and 64 units, each with ReLU. Head: a linear layer to eight logits.
# Train both together for EPOCHS epochs, with Adam and a learning rate of 0.002.

# %% solution="cnn"
# cnn_backbone (nn.Sequential), classifier_head (nn.Linear), cnn = nn.Sequential(cnn_backbone, classifier_head), on the
# device, and cnn_optimizer. Hint: how large are the pictures after each layer, and how many features go into the first
# linear one?

# %% solution="cnn training, comparison"
# cnn_history: what train returns for cnn. Plot it, and compare the test accuracies of both networks.

# %% [markdown] points=1 id="q3_comparison"
# *(1 point) Compare the two networks: accuracies, numbers of parameters, curves.*
#
# ### BEGIN SOLUTION
# **Full (1):** "The CNN reaches … %, the FCN … %: … points more with 178,616 instead of 442,952 parameters. The FCN's
# test loss rises from … after epoch … to …, the CNN's only from … to …: the FCN overfits more." Any comparison of the
# curves is right that the plots show.
#
# **Half (0.5):** Only the accuracies with the numbers of parameters, or only the curves.
#
# **None (0):** "The CNN is better." No number; or numbers that are not in the output.
# ### END SOLUTION

# %% [markdown] points=1 id="q3_reason"
# *(1 point) Why would a convolutional network do better with pictures?*
#
# ### BEGIN SOLUTION
# **Full (1):** two reasons that are about pictures. "The same few weights are used at every place, so what is learned in
# one place is recognised in all. Each filter sees neighbouring pixels, which belong together." Or: "Pooling forgives
# small shifts." The evidence is in docs/studies.md, *locality*: with shuffled pixels the CNN loses half of its lead.
#
# **Half (0.5):** one such reason. "It has fewer weights because the filters are the same everywhere."
#
# **None (0):** "It is deeper", "it has more layers", "CNNs are made for pictures".
# ### END SOLUTION


# %% id="q3_check"
def check_question_3():
    """Look for mistakes in question 3."""
    need("cnn_backbone", "classifier_head", "cnn", "cnn_optimizer", "cnn_history")
    parameters = [sum(parameter.numel() for parameter in part.parameters()) for part in (cnn_backbone, classifier_head)]
    assert parameters == [178096, 520], f"backbone and head have {parameters} parameters, not 178,096 and 520"
    assert "(2, 64)" in output_of(cnn_backbone), (
        f"cnn_backbone makes {output_of(cnn_backbone)} of two crops, not 64 features each: (2, 64)"
    )
    assert "(2, 8)" in output_of(cnn), f"cnn makes {output_of(cnn)} of two crops, not 8 logits each: (2, 8)"
    assert len(cnn_history["test_loss"]) == EPOCHS, "cnn_history must have one entry for each epoch"
    print("The checks of question 3 pass.")


check_question_3()

# %% points=0.5 id="q3_convolutions"
# Marked, half a point: the two convolutions.
### BEGIN HIDDEN TESTS
_conv = [(m.in_channels, m.out_channels, m.kernel_size) for m in cnn_backbone.modules() if isinstance(m, nn.Conv2d)]
assert _conv == [(3, 8, (5, 5)), (8, 16, (5, 5))], f"the convolutions are {_conv}"
### END HIDDEN TESTS

# %% points=0.5 id="q3_pooling"
# Marked, half a point: ReLU and max-pooling.
### BEGIN HIDDEN TESTS
_kinds = [type(m) for m in cnn_backbone.modules()]
assert _kinds.count(nn.MaxPool2d) == 2, "the backbone has two max-poolings"
assert _kinds.count(nn.ReLU) == 4, "the backbone has four ReLUs"
### END HIDDEN TESTS

# %% points=0.5 id="q3_features"
# Marked, half a point: the linear layers, and 64 features.
### BEGIN HIDDEN TESTS
_sizes = [m.out_features for m in cnn_backbone.modules() if isinstance(m, nn.Linear)]
assert _sizes == [128, 64], f"the linear layers of the backbone give {_sizes} outputs"
assert tuple(cnn_backbone(torch.zeros(2, 3, 48, 48, device=device)).shape) == (2, 64)
### END HIDDEN TESTS

# %% points=0.5 id="q3_head"
# Marked, half a point: the head, and both stacked.
### BEGIN HIDDEN TESTS
assert (classifier_head.in_features, classifier_head.out_features) == (64, 8)
_x = torch.randn(4, 3, 48, 48, device=device)
with torch.no_grad():
    assert torch.allclose(cnn(_x), classifier_head(cnn_backbone(_x)), atol=1e-4), "cnn is not the head on the backbone"
### END HIDDEN TESTS

# %% points=0.5 id="q3_optimizer"
# Marked, half a point: Adam over all parameters, with the learning rate that was asked for.
### BEGIN HIDDEN TESTS
_check_optimizer(cnn_optimizer, [*cnn_backbone.parameters(), *classifier_head.parameters()], 0.002)
### END HIDDEN TESTS

# %% points=0.5 id="q3_training"
# Marked, half a point: the network was trained for all epochs.
### BEGIN HIDDEN TESTS
_mine = globals().get("cnn_history")
if "cnn" not in globals() or "cnn_backbone" not in globals():  # for the questions after this one
    cnn_backbone = nn.Sequential(
        *(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Flatten(), nn.Linear(1296, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()),
    )
    cnn = nn.Sequential(cnn_backbone, nn.Linear(64, 8)).to(device)
_weights_of_q3 = {key: value.detach().cpu().clone() for key, value in cnn_backbone.state_dict().items()}
assert _mine is not None, "cnn_history is missing: was it renamed?"
assert len(_mine["test_accuracy"]) == EPOCHS, f"{len(_mine['test_accuracy'])} epochs, not EPOCHS"
assert any(state for state in cnn_optimizer.state.values()), "cnn_optimizer has not taken a step"
### END HIDDEN TESTS

# %% [markdown]
# ## Question 4: confusion matrices (2 points)
#
# The confusion matrices of both networks on the whole test set: rows are the true classes, columns the predicted ones.

# %% solution="confusion"
# Write a function that returns the confusion matrix of a network on the images of a loader. fcn_confusion, cnn_confusion:
# what it returns for all test images, 8 x 8 counts. Hint: scikit-learn counts; keep all eight classes, even where no
# image is predicted as one of them.

# %% solution="confusion pictures, recall"
# train_counts: the number of training images of each class, 0-7. Plot the matrices.

# %% [markdown] points=1 id="q4_text"
# *(1 point) Which classes are confused, and why: because some are rare, or because they look similar? Argue with your
# numbers.*
#
# ### BEGIN SOLUTION
# **Full (1):** "The most frequent errors of the CNN are … galaxies of class … predicted as … and …. Class 5 has …
# training images and a recall of … %, and is predicted … times for … images: the imbalance. But classes 1 and 2 are both
# frequent, and … and … of them are confused all the same, in both directions: they look similar. Both play a part."
#
# **Half (0.5):** The most frequent errors with numbers, but one cause only; or both causes, without numbers.
#
# **None (0):** "Similar classes are confused." No number; or classes that the student's matrices do not show as confused.
# ### END SOLUTION


# %% id="q4_check"
def check_question_4():
    """Look for mistakes in question 4."""
    need("fcn_confusion", "cnn_confusion", "train_counts")
    for name, matrix in (("fcn_confusion", fcn_confusion), ("cnn_confusion", cnn_confusion)):
        assert np.shape(matrix) == (8, 8), f"{name} is {np.shape(matrix)}, not (8, 8)"
        count = int(np.asarray(matrix).sum())
        assert count == len(main_test), (
            f"{name} counts {count:,} images, not each of the {len(main_test):,} test images once"
        )
    assert len(train_counts) == 8, f"train_counts has {len(train_counts)} numbers, not one for each of the classes 0-7"
    print("The checks of question 4 pass.")


check_question_4()

# %% points=0.5 id="q4_matrices"
# Marked, half a point: both matrices count the test images, rows by true class.
### BEGIN HIDDEN TESTS
_true = torch.bincount(torch.as_tensor(main_test.target), minlength=8).numpy()
for _network, _matrix in ((fcn, fcn_confusion), (cnn, cnn_confusion)):
    _matrix = np.asarray(_matrix)
    assert _matrix.sum() == len(main_test), "a matrix does not count every test image once"
    assert np.array_equal(_matrix.sum(1), _true), "the rows of a matrix are not the true classes"
    with torch.no_grad():  # four passes: the crops may be others each time, and few images scatter
        _passes = [batch for _ in range(4) for batch in main_test_loader]
        _hits = [(_network(x.to(device)).argmax(1).cpu() == y).float() for x, y in _passes]
    _gap = abs(torch.cat(_hits).mean().item() - np.trace(_matrix) / _matrix.sum())
    assert _gap < 0.25, "the diagonal of a matrix does not hold the correct predictions of its network"
### END HIDDEN TESTS

# %% points=0.5 id="q4_counts"
# Marked, half a point: train_counts.
### BEGIN HIDDEN TESTS
_expected = torch.bincount(torch.as_tensor(main_train.target), minlength=8).tolist()
assert [int(count) for count in train_counts] == _expected, f"train_counts is not {_expected}"
### END HIDDEN TESTS

# %% [markdown]
# ## Question 5: transfer learning (3 points)
#
# Freeze the backbone and train a new head on classes 8 and 9: TRANSFER_EPOCHS epochs, Adam over the parameters of the
# head alone, a learning rate of 0.005.

# %% solution="transfer"
# Freeze the parameters of cnn_backbone. transfer_head (nn.Linear), transfer_model = nn.Sequential(cnn_backbone,
# transfer_head), on the device, and transfer_optimizer.

# %% points=0.5 id="q5_frozen"
# Marked, half a point: the backbone is frozen.
### BEGIN HIDDEN TESTS
assert not any(parameter.requires_grad for parameter in transfer_model[0].parameters()), "the backbone is not frozen"
assert all(parameter.requires_grad for parameter in transfer_model[-1].parameters()), "the head must be trainable"
### END HIDDEN TESTS

# %% points=0.5 id="q5_head"
# Marked, half a point: the head gives logits of two classes.
### BEGIN HIDDEN TESTS
assert (transfer_model[-1].in_features, transfer_model[-1].out_features) == (64, 2), "the head is not nn.Linear(64, 2)"
### END HIDDEN TESTS

# %% points=0.5 id="q5_optimizer"
# Marked, half a point: Adam has the parameters of the head alone.
### BEGIN HIDDEN TESTS
_check_optimizer(transfer_optimizer, transfer_model[-1].parameters(), 0.005)
### END HIDDEN TESTS

# %% points=0.5 id="q5_backbone"
# Marked, half a point: the backbone is the one that question 3 has trained.
### BEGIN HIDDEN TESTS
_found = transfer_model[0].state_dict()
assert set(_found) == set(_weights_of_q3), "transfer_model does not begin with the backbone"
assert all(torch.equal(_found[key].cpu(), _weights_of_q3[key]) for key in _found), (
    "it has other weights than question 3's"
)
### END HIDDEN TESTS

# %% solution="transfer training, control"
# transfer_history: what train returns for transfer_model. Plot it. Beyond the assignment: the same head on a backbone
# that was never trained, to learn what the trained one is worth.

# %% [markdown] points=1 id="q5_text"
# *(1 point) How well does the transfer work, and what does that say about the features learned in question 3? Beyond the
# assignment: how do you know that they help?*
#
# ### BEGIN SOLUTION
# **Full (1):** the accuracy beside another one, and a conclusion. "The head reaches … % on the test images, always
# predicting the majority class … %. So features learned on other classes tell these two apart." Instead of the majority
# class also: chance, an untrained backbone, the whole network from scratch.
#
# **Half (0.5):** The accuracy beside another one without a conclusion; or the accuracy alone with one.
#
# **None (0):** "It works." No number.
# ### END SOLUTION


# %% id="q5_check"
def check_question_5():
    """Look for mistakes in question 5."""
    need("transfer_head", "transfer_model", "transfer_optimizer", "transfer_history")
    assert "(2, 2)" in output_of(transfer_model), (
        f"transfer_model makes {output_of(transfer_model)} of two crops, not 2 logits each: (2, 2)"
    )
    trainable = [parameter for parameter in transfer_model.parameters() if parameter.requires_grad]
    assert trainable, "no parameter of transfer_model can change: only the backbone is to be frozen"
    for parameter in transfer_model.parameters():
        parameter.grad = None
    transfer_model(torch.zeros(2, 3, 48, 48, device=device)).sum().backward()
    changing = sum(parameter.numel() for parameter in transfer_model.parameters() if parameter.grad is not None)
    assert changing == 130, (
        f"{changing:,} parameters get gradients, not only the 130 of the head: is the backbone frozen?"
    )
    given = sum(parameter.numel() for group in transfer_optimizer.param_groups for parameter in group["params"])
    assert given == 130, f"transfer_optimizer has {given:,} parameters, not the 130 of the head"
    assert len(transfer_history["test_accuracy"]) == TRANSFER_EPOCHS, (
        "transfer_history must have one entry for each epoch"
    )
    print("The checks of question 5 pass.")


check_question_5()

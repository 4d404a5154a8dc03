# %% [markdown]
# # Recognizing galaxies with deep neural networks
#
# PHYS-467, assignment 3: 20 points. [Galaxy10 SDSS](https://astronn.readthedocs.io/en/latest/galaxy10sdss.html)
# contains 21,785 colour images of galaxies, 69 x 69 pixels each, in ten classes. You train two networks on classes 0-7,
# compare their errors, and transfer what one of them has learned to classes 8 and 9. Hand in this one notebook, with
# code, plots, results and discussion.
#
# Write your code where it says `# your code here`, in as many lines as you need. Keep the given variable names; the
# grading tests rely on them. Do not change, split or delete the other cells. Each question ends with checks that you
# can run; they find some mistakes, but not all. Parts marked *beyond the assignment* earn no points. Before you hand in,
# restart the kernel, run all cells, and save the notebook with its output.
#
# Estimated running times on Colab (not measured): with two CPU cores, 1 minute each for questions 1, 4 and 5, 5 minutes
# for question 2, 12 minutes for question 3; with a GPU (*Runtime, Change runtime type*), 4 minutes each for questions 2
# and 3, because the CPU still crops the images. Try your code with fewer epochs first.

# %% [markdown] id="name" open=true
# **Your name and student number:**
#
# **Who helped you:**

# %% given="imports"

# %% given="settings"
# Grading uses other values and a smaller file, so use these names instead of the numbers.
if "NBGRADER_EXECUTION" in os.environ:
    DATA_FILE = "Galaxy10.h5"


def need(*names):
    """Stop with a message if a name that the checks need does not exist."""
    for name in names:
        assert name in globals(), f"{name} does not exist: run its cell, and do not rename it"


def check_network(name, network, classes, history, epochs):
    """Check a network and its training history."""
    with torch.no_grad():
        outputs = network(torch.zeros(2, 3, 48, 48, device=device))
    assert tuple(outputs.shape) == (2, classes), f"{name} gives outputs of {tuple(outputs.shape)}, not (2, {classes})"
    is_softmax = torch.allclose(outputs.sum(1), torch.ones(2, device=device)) and (outputs >= 0).all()
    assert not is_softmax, (
        f"nn.CrossEntropyLoss gets the softmax of the logits of {name}, but already contains a softmax"
    )
    for values in history.values() if isinstance(history, dict) else ():
        assert len(values) == epochs, f"{name} was trained for {len(values)} epochs, not {epochs}"


# %% [markdown]
# ## Question 1: loading and preparing the data (5 points)
#
# Get the file, read it, split it into four sets, and prepare random crops of 48 x 48 pixels, normalised by the mean and
# the standard deviation of each colour channel. The loaders give batches of 64; only the training images are shuffled.

# %% solution="download, read"
# images, labels: numpy arrays of the datasets "images" and "ans" in DATA_FILE. Download the file from DATA_URL if it
# does not exist. Hint: torch converts HDF5 datasets very slowly, image by image, so read numpy arrays first.

# %% given="axes"

# %% given="dataset"

# %% given="class names"

# %% solution="classes"
# Show an image of each class, and the number of images in it. Hint: imshow expects the colour channels last.

# %% solution="split"
# Split classes 0-7 into MAIN_TRAIN training images and test images (the rest), and classes 8 and 9 into TRANSFER_TRAIN
# training images and test images. Hint: how does every class, even the one with 17 images, get into both subsets?

# %% solution="statistics"
# mean, std: one value per colour channel, over random crops of 1,000 training images of classes 0-7. Hints: why crops,
# and why training images only? The images are bytes, and torch cannot average them without .float() ("Got: Byte").

# %% solution="datasets"
# transform: a transforms.Compose of the random crop and transforms.Normalize.
# main_train, main_test, transfer_train, transfer_test: instances of MyDataset, all with this transform. Hint: the loss
# expects labels that start at 0, so 8 and 9 become 0 and 1.

# %% solution="loaders, check"
# main_train_loader, main_test_loader, transfer_train_loader, transfer_test_loader. Beyond the assignment: print the mean
# and the standard deviation of the training crops after normalising. What should they be?

# %% [markdown] points=1 id="q1_text"
# *(1 point) How are the classes distributed? What does this imply for training, and for accuracy as a metric? Beyond the
# assignment: how do you know that the normalisation worked?*
#
# ### BEGIN SOLUTION
# The dots stand for numbers: all numbers that agree with the student's own output are correct.
#
# **Full (1):** "Class 1 has … training images and class 5 only …, a ratio of …. The rare classes hardly count in the loss,
# and the accuracy says little about them: always predicting class 1 is already correct on … %."
#
# **Half (0.5):** "Class 1 has … images and class 5 only …." Nothing about the consequences for training or accuracy.
#
# **None (0):** "The data are imbalanced." No number; or numbers that are not in the output.
# ### END SOLUTION


# %% id="q1_check"
def check_question_1():
    """Check the answers to question 1."""
    need("images", "labels", "main_train", "main_test", "transfer_train", "transfer_test", "mean", "std")
    need("main_train_loader", "main_test_loader", "transfer_train_loader", "transfer_test_loader")
    main, transfer = int(is_main.sum()), int((~is_main).sum())
    sizes = {"main_train": MAIN_TRAIN, "main_test": main - MAIN_TRAIN}
    sizes |= {"transfer_train": TRANSFER_TRAIN, "transfer_test": transfer - TRANSFER_TRAIN}
    pixels = {}
    for name, size in sizes.items():
        dataset, loader = globals()[name], globals()[f"{name}_loader"]
        assert len(dataset) == size, f"{name} has {len(dataset):,} images, not {size:,}"
        pixels[name] = {hash(torch.as_tensor(image).numpy().tobytes()) for image in getattr(dataset, "data", [])}
        crops, targets = zip(*(dataset[index] for index in range(min(size, 300))), strict=True)
        shape = tuple(crops[0].shape)
        assert shape == (3, 48, 48), f"{name}[0] gives a crop of {shape}, not (3, 48, 48)"
        means = torch.stack(crops).mean((0, 2, 3))
        assert (means.abs() < 2).all(), f"the crops of {name} are not normalised: their means are {means.tolist()}"
        classes = {int(target.argmax() if target.ndim else target) for target in map(torch.as_tensor, targets)}
        assert classes <= set(range(8 if "main" in name else 2)), f"{name} has the labels {sorted(classes)}"
        batch, _ = next(iter(loader))
        assert len(batch) == min(64, size), f"{name}_loader gives batches of {len(batch)} images, not 64"
        if isinstance(loader, DataLoader):
            is_shuffled = not isinstance(loader.sampler, torch.utils.data.SequentialSampler)
            assert is_shuffled == ("train" in name), f"{name}_loader is {'' if is_shuffled else 'not '}shuffled"
    for task in ("main", "transfer"):
        shared = len(pixels[f"{task}_train"] & pixels[f"{task}_test"])
        assert shared <= sizes[f"{task}_test"] / 100, f"{shared} images are in both {task}_train and {task}_test"
    print("The checks of question 1 pass.")


check_question_1()

# %% points=0.5 id="q1_read"
# Test, half a point: images and labels are as in the file.
### BEGIN HIDDEN TESTS
_mark("q1_read")
### END HIDDEN TESTS

# %% points=0.5 id="q1_sizes"
# Test, half a point: the four sets have the right numbers of images.
### BEGIN HIDDEN TESTS
_mark("q1_sizes")
### END HIDDEN TESTS

# %% points=0.5 id="q1_disjoint"
# Test, half a point: no image is in more than one set.
### BEGIN HIDDEN TESTS
_mark("q1_disjoint")
### END HIDDEN TESTS

# %% points=0.5 id="q1_labels"
# Test, half a point: each image has its own label: 0-7, or 0 and 1 in the transfer sets.
### BEGIN HIDDEN TESTS
_mark("q1_labels")
### END HIDDEN TESTS

# %% points=0.5 id="q1_statistics"
# Test, half a point: mean and std are computed over random crops of training images.
### BEGIN HIDDEN TESTS
_mark("q1_statistics")
### END HIDDEN TESTS

# %% points=0.5 id="q1_transform"
# Test, half a point: all sets return normalised crops of 48 x 48 pixels, main_train at random positions.
### BEGIN HIDDEN TESTS
_mark("q1_transform")
### END HIDDEN TESTS

# %% points=0.5 id="q1_train_loader"
# Test, half a point: the training loaders return all images in batches of 64, in a different order each time.
### BEGIN HIDDEN TESTS
_mark("q1_train_loader")
### END HIDDEN TESTS

# %% points=0.5 id="q1_test_loader"
# Test, half a point: the test loaders return all test images in order.
### BEGIN HIDDEN TESTS
_mark("q1_test_loader")
### END HIDDEN TESTS

# %% [markdown]
# ## Question 2: a fully connected network (5 points)
#
# One hidden layer of 64 units with ReLU, and eight outputs: logits, because `nn.CrossEntropyLoss` contains the softmax.
# Train it for EPOCHS epochs with Adam and a learning rate of 0.001. For each epoch, record the training loss and, at its
# end, the loss and the accuracy on the test images.

# %% solution="predict, train"
# Define train(model, optimizer, train_loader, test_loader, epochs), which you can use for all three networks. It returns
# a dict of three lists with one entry per epoch: train_loss and test_loss (means over the images) and test_accuracy.
# Hint: gradients accumulate from step to step unless they are cleared, and test images must not change the network.

# %% solution="fcn"
# fcn: the network, on the device; fcn_optimizer: its optimizer.

# %% solution="fcn training"
# fcn_history: the history that train returns for fcn.

# %% solution="fcn curves"
# Plot the losses and the test accuracy against the epoch.

# %% [markdown] points=1 id="q2_curves"
# *(1 point) Describe the curves: how do the losses evolve, and does the network overfit?*
#
# ### BEGIN SOLUTION
# **Full (1):** "The training loss falls from … to … and is still falling at the end. The test loss is lowest, …, after
# epoch … and ends at …: since then it has risen while the training loss fell, so the network overfits." Or: "The test
# loss ends at …, close to its lowest value, …: it does not overfit yet." Either is correct if the curves show it.
#
# **Half (0.5):** "The training loss falls to … and the test loss to …." Nothing on overfitting; or overfitting inferred
# from the accuracy alone.
#
# **None (0):** "The loss goes down and the accuracy goes up." No number; or a description that does not match the plot.
# ### END SOLUTION

# %% [markdown] points=0.5 id="q2_accuracy"
# *(half a point) How well does it do? Beyond the assignment: compare it with always predicting the majority class.*
#
# ### BEGIN SOLUTION
# **Full (0.5):** "At the end … % of the test images are classified correctly." **None (0):** "It works well."
# ### END SOLUTION


# %% id="q2_check"
def check_question_2():
    """Check the answers to question 2."""
    need("fcn", "fcn_history")
    shapes = [tuple(each.shape) for each in fcn.parameters() if each.ndim == 2]
    assert sorted(shapes) == [(8, 64), (64, 6912)], (
        f"the linear layers of fcn have weights of {shapes}, not [(64, 6912), (8, 64)]"
    )
    check_network("fcn", fcn, 8, fcn_history, EPOCHS)
    print("The checks of question 2 pass.")


check_question_2()

# %% points=0.5 id="q2_layers"
# Test, half a point: the layers have the right sizes, and there are no others.
### BEGIN HIDDEN TESTS
_mark("q2_layers")
### END HIDDEN TESTS

# %% points=0.5 id="q2_relu"
# Test, half a point: the hidden layer has a ReLU.
### BEGIN HIDDEN TESTS
_mark("q2_relu")
### END HIDDEN TESTS

# %% points=0.5 id="q2_logits"
# Test, half a point: the loss gets logits, not probabilities.
### BEGIN HIDDEN TESTS
_mark("q2_logits")
### END HIDDEN TESTS

# %% points=0.5 id="q2_optimizer"
# Test, half a point: Adam with all parameters and the given learning rate.
### BEGIN HIDDEN TESTS
_mark("q2_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q2_gradients"
# Test, half a point: the gradients are cleared before each step.
### BEGIN HIDDEN TESTS
_mark("q2_gradients")
### END HIDDEN TESTS

# %% points=0.5 id="q2_training_images"
# Test, half a point: there is one step per batch of training images, and none for test images.
### BEGIN HIDDEN TESTS
_mark("q2_training_images")
### END HIDDEN TESTS

# %% points=0.5 id="q2_history"
# Test, half a point: fcn_history contains the mean losses and test accuracies of this training run.
### BEGIN HIDDEN TESTS
_mark("q2_history")
### END HIDDEN TESTS

# %% [markdown]
# ## Question 3: a convolutional network (5 points)
#
# Backbone: a convolution of 8 filters of 5 x 5, ReLU, max-pooling by 2, a convolution of 16 filters of 5 x 5, ReLU,
# max-pooling by 2, flatten, linear layers of 128 and 64 units, each with ReLU. Head: a linear layer to eight logits.
# Train both together for EPOCHS epochs, with Adam and a learning rate of 0.002.

# %% solution="cnn"
# cnn_backbone (nn.Sequential), classifier_head (nn.Linear), cnn = nn.Sequential(cnn_backbone, classifier_head), on the
# device, and cnn_optimizer. Hint: how large are the images after each layer, and how many inputs does the first linear
# layer have?

# %% solution="cnn training, comparison"
# cnn_history: the history that train returns for cnn. Plot it, and compare the test accuracies of both networks.

# %% [markdown] points=1 id="q3_comparison"
# *(1 point) Compare the two networks: accuracies, numbers of parameters, curves.*
#
# ### BEGIN SOLUTION
# **Full (1):** "The CNN reaches … %, the FCN … %: … points more with 178,616 instead of 442,952 parameters. The FCN's
# test loss rises from … after epoch … to …, the CNN's only from … to …: the FCN overfits more." Any comparison of the
# curves that agrees with the plots is correct.
#
# **Half (0.5):** Only the accuracies with the numbers of parameters, or only the curves.
#
# **None (0):** "The CNN is better." No number; or numbers that are not in the output.
# ### END SOLUTION

# %% [markdown] points=1 id="q3_reason"
# *(1 point) Why might a convolutional network do better on images?*
#
# ### BEGIN SOLUTION
# **Full (1):** two reasons about images. "The same few weights are applied at every position, so a pattern learned in
# one place is recognised everywhere. Each filter sees neighbouring pixels, which belong together." Or: "Pooling
# tolerates small shifts." Evidence: docs/studies.md, *locality*: with shuffled pixels the CNN loses half of its lead.
#
# **Half (0.5):** one such reason. "It has fewer weights because the filters are the same everywhere."
#
# **None (0):** "It is deeper", "it has more layers", "CNNs are made for images".
# ### END SOLUTION


# %% id="q3_check"
def check_question_3():
    """Check the answers to question 3."""
    need("cnn", "cnn_history")
    shapes = [tuple(each.shape) for each in cnn.parameters() if each.ndim == 4]
    assert sorted(shapes) == [(8, 3, 5, 5), (16, 8, 5, 5)], (
        f"the convolutions of cnn have weights of {shapes}, not [(8, 3, 5, 5), (16, 8, 5, 5)]"
    )
    parameters = sum(parameter.numel() for parameter in cnn.parameters())
    assert parameters == 178616, f"cnn has {parameters:,} parameters, not 178,616"
    check_network("cnn", cnn, 8, cnn_history, EPOCHS)
    print("The checks of question 3 pass.")


check_question_3()

# %% points=0.5 id="q3_convolutions"
# Test, half a point: the two convolutions.
### BEGIN HIDDEN TESTS
_mark("q3_convolutions")
### END HIDDEN TESTS

# %% points=0.5 id="q3_pooling"
# Test, half a point: ReLU and max-pooling.
### BEGIN HIDDEN TESTS
_mark("q3_pooling")
### END HIDDEN TESTS

# %% points=0.5 id="q3_features"
# Test, half a point: the linear layers, and 64 features.
### BEGIN HIDDEN TESTS
_mark("q3_features")
### END HIDDEN TESTS

# %% points=0.5 id="q3_head"
# Test, half a point: the head, and the stack of backbone and head.
### BEGIN HIDDEN TESTS
_mark("q3_head")
### END HIDDEN TESTS

# %% points=0.5 id="q3_optimizer"
# Test, half a point: Adam with all parameters and the given learning rate.
### BEGIN HIDDEN TESTS
_mark("q3_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q3_training"
# Test, half a point: the network was trained for all epochs, and cnn_history belongs to this training run.
### BEGIN HIDDEN TESTS
_mark("q3_training")
### END HIDDEN TESTS

# %% [markdown]
# ## Question 4: confusion matrices (2 points)
#
# The confusion matrices of both networks on the whole test set: rows are the true classes, columns the predicted ones.

# %% solution="confusion"
# Write a function that returns the confusion matrix of a network on the images of a loader. fcn_confusion, cnn_confusion:
# its results for all test images, 8 x 8 counts. Hint: use scikit-learn, and keep all eight classes, even if no image is
# predicted as one of them.

# %% solution="confusion pictures, recall"
# train_counts: the number of training images of each class, 0-7. Plot the matrices.

# %% [markdown] points=1 id="q4_text"
# *(1 point) Which classes are confused, and why: because some are rare, or because they look similar? Support your answer
# with numbers.*
#
# ### BEGIN SOLUTION
# **Full (1):** "The most frequent errors of the CNN are … galaxies of class … predicted as … and …. Class 5 has …
# training images and a recall of … %, and is predicted … times for … images: the imbalance. But classes 1 and 2 are both
# frequent, and … and … of them are still confused, in both directions: they look similar. Both causes contribute."
#
# **Half (0.5):** The most frequent errors with numbers, but one cause only; or both causes, without numbers.
#
# **None (0):** "Similar classes are confused." No number; or classes that the student's matrices do not show as confused.
# ### END SOLUTION


# %% id="q4_check"
def check_question_4():
    """Check the answers to question 4."""
    need("fcn_confusion", "cnn_confusion", "train_counts")
    for name, matrix in (("fcn_confusion", fcn_confusion), ("cnn_confusion", cnn_confusion)):
        total = float(np.asarray(matrix).sum())
        assert total == len(main_test), f"{name} adds up to {total:,.0f}, but main_test has {len(main_test):,} images"
    print("The checks of question 4 pass.")


check_question_4()

# %% points=0.5 id="q4_matrices"
# Test, half a point: both matrices count the test images, with rows for the true classes.
### BEGIN HIDDEN TESTS
_mark("q4_matrices")
### END HIDDEN TESTS

# %% points=0.5 id="q4_counts"
# Test, half a point: train_counts.
### BEGIN HIDDEN TESTS
_mark("q4_counts")
### END HIDDEN TESTS

# %% [markdown]
# ## Question 5: transfer learning (3 points)
#
# Freeze the backbone and train a new head on classes 8 and 9 for TRANSFER_EPOCHS epochs, with Adam on the parameters of
# the head only and a learning rate of 0.005.

# %% solution="transfer"
# Freeze the parameters of cnn_backbone. transfer_head (nn.Linear), transfer_model = nn.Sequential(cnn_backbone,
# transfer_head), on the device, and transfer_optimizer.

# %% solution="transfer training, control"
# transfer_history: the history that train returns for transfer_model. Plot it. Beyond the assignment: train the same head
# on an untrained backbone, to find out what the trained one is worth.

# %% [markdown] points=1 id="q5_text"
# *(1 point) How well does the transfer work, and what does that say about the features learned in question 3? Beyond the
# assignment: how do you know that they help?*
#
# ### BEGIN SOLUTION
# **Full (1):** the accuracy, a baseline, and a conclusion. "The head reaches … % on the test images, always predicting
# the majority class … %. So features learned on other classes tell these two apart." Other baselines: chance, an
# untrained backbone, the whole network trained from scratch.
#
# **Half (0.5):** The accuracy and a baseline, without a conclusion; or the accuracy and a conclusion, without a baseline.
#
# **None (0):** "It works." No number.
# ### END SOLUTION


# %% id="q5_check"
def check_question_5():
    """Check the answers to question 5."""
    need("transfer_model", "transfer_history")
    check_network("transfer_model", transfer_model, 2, transfer_history, TRANSFER_EPOCHS)
    trainable = sum(parameter.numel() for parameter in transfer_model.parameters() if parameter.requires_grad)
    assert trainable, "the head is frozen too"
    assert trainable == 130, f"the backbone is not frozen: {trainable - 130:,} of its parameters have gradients"
    groups = getattr(globals().get("transfer_optimizer"), "param_groups", [])
    given = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert given in (0, 130), f"the optimizer of transfer_model has {given:,} parameters, not 130"
    print("The checks of question 5 pass.")


check_question_5()

# %% points=0.5 id="q5_frozen"
# Test, half a point: the backbone is frozen.
### BEGIN HIDDEN TESTS
_mark("q5_frozen")
### END HIDDEN TESTS

# %% points=0.5 id="q5_head"
# Test, half a point: the head returns logits of two classes.
### BEGIN HIDDEN TESTS
_mark("q5_head")
### END HIDDEN TESTS

# %% points=0.5 id="q5_optimizer"
# Test, half a point: Adam trained only the head, on transfer_train, and transfer_history belongs to this run.
### BEGIN HIDDEN TESTS
_mark("q5_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q5_backbone"
# Test, half a point: the backbone was trained in question 3.
### BEGIN HIDDEN TESTS
_mark("q5_backbone")
### END HIDDEN TESTS

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


def check_network(name, network, classes, history, epochs):
    """Look for mistakes in a network and in the history of its training."""
    with torch.no_grad():
        outputs = network(torch.zeros(2, 3, 48, 48, device=device))
    assert tuple(outputs.shape) == (2, classes), f"{name} gives outputs of {tuple(outputs.shape)}, not (2, {classes})"
    is_softmax = torch.allclose(outputs.sum(1), torch.ones(2, device=device)) and (outputs >= 0).all()
    assert not is_softmax, (
        f"nn.CrossEntropyLoss gets the softmax of the logits of {name}, and contains a softmax already"
    )
    for values in history.values() if isinstance(history, dict) else ():
        assert len(values) == epochs, f"{name} was trained for {len(values)} epochs, not {epochs}"


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
        assert shared <= sizes[f"{task}_test"] / 100, f"{shared} images are both in {task}_train and in {task}_test"
    print("The checks of question 1 pass.")


check_question_1()

# %% points=0.5 id="q1_read"
# Marked, half a point: images and labels as in the file.
### BEGIN HIDDEN TESTS
_mark("q1_read")
### END HIDDEN TESTS

# %% points=0.5 id="q1_sizes"
# Marked, half a point: the numbers of images of the four sets.
### BEGIN HIDDEN TESTS
_mark("q1_sizes")
### END HIDDEN TESTS

# %% points=0.5 id="q1_disjoint"
# Marked, half a point: no image is in two of the sets.
### BEGIN HIDDEN TESTS
_mark("q1_disjoint")
### END HIDDEN TESTS

# %% points=0.5 id="q1_labels"
# Marked, half a point: each image has its own label, 0-7, or 0 and 1 in the transfer sets.
### BEGIN HIDDEN TESTS
_mark("q1_labels")
### END HIDDEN TESTS

# %% points=0.5 id="q1_statistics"
# Marked, half a point: mean and std of random crops of training images.
### BEGIN HIDDEN TESTS
_mark("q1_statistics")
### END HIDDEN TESTS

# %% points=0.5 id="q1_transform"
# Marked, half a point: all sets give normalised crops of 48 x 48 pixels, main_train at random places.
### BEGIN HIDDEN TESTS
_mark("q1_transform")
### END HIDDEN TESTS

# %% points=0.5 id="q1_train_loader"
# Marked, half a point: the training loaders give all images in batches of 64, each time in another order.
### BEGIN HIDDEN TESTS
_mark("q1_train_loader")
### END HIDDEN TESTS

# %% points=0.5 id="q1_test_loader"
# Marked, half a point: the test loaders give all test images in their order.
### BEGIN HIDDEN TESTS
_mark("q1_test_loader")
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
    need("fcn", "fcn_history")
    shapes = [tuple(each.shape) for each in fcn.parameters() if each.ndim == 2]
    assert sorted(shapes) == [(8, 64), (64, 6912)], (
        f"the linear layers of fcn have weights of {shapes}, not [(64, 6912), (8, 64)]"
    )
    check_network("fcn", fcn, 8, fcn_history, EPOCHS)
    print("The checks of question 2 pass.")


check_question_2()

# %% points=0.5 id="q2_layers"
# Marked, half a point: the sizes of the layers, and no other ones.
### BEGIN HIDDEN TESTS
_mark("q2_layers")
### END HIDDEN TESTS

# %% points=0.5 id="q2_relu"
# Marked, half a point: the hidden layer is not linear.
### BEGIN HIDDEN TESTS
_mark("q2_relu")
### END HIDDEN TESTS

# %% points=0.5 id="q2_logits"
# Marked, half a point: the loss gets logits, not probabilities.
### BEGIN HIDDEN TESTS
_mark("q2_logits")
### END HIDDEN TESTS

# %% points=0.5 id="q2_optimizer"
# Marked, half a point: Adam over all parameters, with the learning rate that was asked for.
### BEGIN HIDDEN TESTS
_mark("q2_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q2_gradients"
# Marked, half a point: each step starts from new gradients.
### BEGIN HIDDEN TESTS
_mark("q2_gradients")
### END HIDDEN TESTS

# %% points=0.5 id="q2_training_images"
# Marked, half a point: one step for each batch of training images, and none for test images.
### BEGIN HIDDEN TESTS
_mark("q2_training_images")
### END HIDDEN TESTS

# %% points=0.5 id="q2_history"
# Marked, half a point: fcn_history has the mean losses, and the accuracy on the test images, of this training.
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
# **Full (1):** two reasons about pictures. "The same few weights are used at every place, so what is learned in
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
# Marked, half a point: the two convolutions.
### BEGIN HIDDEN TESTS
_mark("q3_convolutions")
### END HIDDEN TESTS

# %% points=0.5 id="q3_pooling"
# Marked, half a point: ReLU and max-pooling.
### BEGIN HIDDEN TESTS
_mark("q3_pooling")
### END HIDDEN TESTS

# %% points=0.5 id="q3_features"
# Marked, half a point: the linear layers, and 64 features.
### BEGIN HIDDEN TESTS
_mark("q3_features")
### END HIDDEN TESTS

# %% points=0.5 id="q3_head"
# Marked, half a point: the head, and both stacked.
### BEGIN HIDDEN TESTS
_mark("q3_head")
### END HIDDEN TESTS

# %% points=0.5 id="q3_optimizer"
# Marked, half a point: Adam over all parameters, with the learning rate that was asked for.
### BEGIN HIDDEN TESTS
_mark("q3_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q3_training"
# Marked, half a point: the network was trained for all epochs, and cnn_history belongs to this training.
### BEGIN HIDDEN TESTS
_mark("q3_training")
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
        total = float(np.asarray(matrix).sum())
        assert total == len(main_test), f"{name} adds up to {total:,.0f}, but main_test has {len(main_test):,} images"
    print("The checks of question 4 pass.")


check_question_4()

# %% points=0.5 id="q4_matrices"
# Marked, half a point: both matrices count the test images, rows by true class.
### BEGIN HIDDEN TESTS
_mark("q4_matrices")
### END HIDDEN TESTS

# %% points=0.5 id="q4_counts"
# Marked, half a point: train_counts.
### BEGIN HIDDEN TESTS
_mark("q4_counts")
### END HIDDEN TESTS

# %% [markdown]
# ## Question 5: transfer learning (3 points)
#
# Freeze the backbone and train a new head on classes 8 and 9: TRANSFER_EPOCHS epochs, Adam over the parameters of the
# head alone, a learning rate of 0.005.

# %% solution="transfer"
# Freeze the parameters of cnn_backbone. transfer_head (nn.Linear), transfer_model = nn.Sequential(cnn_backbone,
# transfer_head), on the device, and transfer_optimizer.

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
    need("transfer_model", "transfer_history")
    check_network("transfer_model", transfer_model, 2, transfer_history, TRANSFER_EPOCHS)
    trainable = sum(parameter.numel() for parameter in transfer_model.parameters() if parameter.requires_grad)
    assert trainable, "the head is frozen too"
    assert trainable == 130, f"the backbone is not frozen: {trainable - 130:,} of its parameters have gradients"
    groups = getattr(globals().get("transfer_optimizer"), "param_groups", [])
    given = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert given in (0, 130), f"the optimizer of transfer_model has {given:,} parameters; it was to have 130"
    print("The checks of question 5 pass.")


check_question_5()

# %% points=0.5 id="q5_frozen"
# Marked, half a point: the backbone is frozen.
### BEGIN HIDDEN TESTS
_mark("q5_frozen")
### END HIDDEN TESTS

# %% points=0.5 id="q5_head"
# Marked, half a point: the head gives logits of two classes.
### BEGIN HIDDEN TESTS
_mark("q5_head")
### END HIDDEN TESTS

# %% points=0.5 id="q5_optimizer"
# Marked, half a point: Adam trained only the head, on transfer_train, and transfer_history belongs to this training.
### BEGIN HIDDEN TESTS
_mark("q5_optimizer")
### END HIDDEN TESTS

# %% points=0.5 id="q5_backbone"
# Marked, half a point: the backbone was trained in question 3.
### BEGIN HIDDEN TESTS
_mark("q5_backbone")
### END HIDDEN TESTS

"""Both networks under shifted crops: how accurate they stay, and how many of their predictions change."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from common import metrics, plots

SHIFTS = (0, 1, 2, 3, 4, 6, 8, 10)  # pixels from the centre; 10 is the most that images of 69 pixels allow


def crop_at(data, part, right, down):
    """Return the test images of `part`, cropped `right` and `down` pixels off the centre, float32 and normalised."""
    images = data[f"{part}_test_images"]
    top, left = ((side - 48) // 2 for side in images.shape[2:])
    crops = images[:, :, top + down :, left + right :][:, :, :48, :48].float()
    return (crops - data["mean"][:, None, None]) / data["std"][:, None, None]


def possible_shifts(data):
    """Return those of SHIFTS with which a crop stays within the images; images of 48 pixels allow none but 0."""
    margin = (min(data["main_test_images"].shape[2:]) - 48) // 2
    return [shift for shift in SHIFTS if shift <= margin]


@torch.no_grad()
def shifted_predictions(model, data, shifts):
    """Return the predictions, int64 (len(shifts), 4, n), for test crops shifted alike in each of four directions."""
    predictions = []
    for shift in shifts:
        ways = [(shift, 0), (-shift, 0), (0, shift), (0, -shift)]
        predictions.append(torch.stack([model(crop_at(data, "main", *way)).argmax(1) for way in ways]))
    return torch.stack(predictions)


def under_shifts(predictions, labels):
    """Return, for each shift, the accuracy and the share of predictions that differ from those at the centre.

    Both are means over images and directions. Also returned is the number of distinct predictions.
    predictions: int64 (shifts, 4, n); labels: int64 (n,).
    """
    return {
        "accuracy": (predictions == labels).double().mean((1, 2)).tolist(),
        "changed": (predictions != predictions[0, 0]).double().mean((1, 2)).tolist(),
        "distinct_predictions": len(predictions.unique()),
    }


def compare_shifts(fcn, cnn):
    """Return a sign test, with images as the unit, of which network's predictions change more at the furthest shift.

    fcn, cnn: predictions, int64 (shifts, 4, n). Keys: fcn_more and cnn_more, the numbers of images whose
    prediction changes in more of the four directions with this network than with the other, and p_value.
    """
    fcn_changes, cnn_changes = ((shifted[-1] != shifted[0, 0]).sum(0) for shifted in (fcn, cnn))
    test = metrics.mcnemar(fcn_changes > cnn_changes, cnn_changes > fcn_changes)
    return {"fcn_more": test["first_only"], "cnn_more": test["second_only"], "p_value": test["p_value"]}


def changes_more(measured, paired):
    """Return whose predictions change more, fcn or cnn; None where share and sign test do not agree.

    measured: what `under_shifts` gives, by name; paired: what `compare_shifts` gives.
    """
    fcn, cnn = (measured[name]["changed"][-1] for name in ("fcn", "cnn"))
    if paired["p_value"] >= 0.05 or (fcn - cnn) * (paired["fcn_more"] - paired["cnn_more"]) <= 0:
        return None
    return "fcn" if fcn > cnn else "cnn"


def describe_changes(measured, paired, furthest):
    """Return a sentence on whose predictions change more, by `changes_more`; furthest: the last shift."""
    fcn, cnn = (measured[name]["changed"][-1] for name in ("fcn", "cnn"))
    more = changes_more(measured, paired)
    verdict = f"the {more.upper()}'s change more" if more else "which changes more cannot be told"
    return (
        f"With a shift of {furthest} pixels, {fcn:.1%} of the FCN's predictions change and {cnn:.1%} of the CNN's: "
        f"{verdict} (sign test, p = {paired['p_value']:.2g})."
    )


def shifts_figure(measured, shifts, source):
    """Return a figure of both networks under shifted crops; measured: what `under_shifts` gives, by name."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, key, title in zip(axes, ("accuracy", "changed"), ("Accuracy", "Predictions that change"), strict=True):
        for (name, figures), colour, marker in zip(measured.items(), plots.COLOURS, "os", strict=True):
            ax.plot(shifts, 100 * np.array(figures[key]), color=colour, marker=marker, label=name.upper())
        ax.set(xlabel="shift of all test crops off the centre (pixels)", ylabel="%", title=title)
        ax.grid(alpha=0.25)
        ax.legend()
    figure.suptitle(plots.titled("The same test pictures, shifted", source))
    return figure

"""The discussion of each question, as Markdown, out of the figures in the JSON files and of nothing else."""

from common.describe import describe_comparison, describe_curves
from common.describe_confusion import describe_causes

# The course's own solution on Galaxy10 SDSS: one unseeded run, the file's order, one T4. (accuracy, loss)
COURSE = {"q2": (0.646, 0.924), "q3": (0.818, 0.493), "q5": (0.809, 0.468)}
NAMES = {"q2": "fully connected", "q3": "convolutional", "q5": "transfer"}
THANKS = {
    "galaxy10-sdss": "Galaxy10 SDSS by Henry Leung and Jo Bovy (zenodo.org/records/10844811), with labels of Galaxy "
    "Zoo 2 (Willett et al. 2013, MNRAS 435, 2835) and pictures of the Sloan Digital Sky Survey.",
    "galaxy10-decals": "Galaxy10 DECaLS by Henry Leung and Jo Bovy (zenodo.org/records/10845026), with labels of "
    "Galaxy Zoo DECaLS (Walmsley et al. 2022, MNRAS 509, 3966) and pictures of the DESI Legacy Imaging Surveys.",
    "synthetic": "The galaxies are SYNTHETIC, drawn by this program with the class names and counts of Galaxy10 SDSS "
    "by Henry Leung and Jo Bovy (zenodo.org/records/10844811), of Galaxy Zoo 2 and the Sloan Digital Sky Survey.",
}
EFIGI = (
    "Pictures of the EFIGI catalogue (Baillard et al. 2011, A&A 532, A74), from the Sloan Digital Sky Survey, "
    "in the form of Galaxy10 by Henry Leung and Jo Bovy (zenodo.org/records/10844811)."
)


def is_synthetic(record):
    """Say whether a record's figures come from drawn galaxies."""
    return record["source"] == "synthetic"


def caution(record):
    """Return the word that stands beside every result from drawn galaxies, or nothing."""
    return "**SYNTHETIC data.** " if is_synthetic(record) else ""


def percent(share):
    """Return a share as a percentage with one decimal, or a dash where it is undefined."""
    return "–" if share is None else f"{100 * share:.1f} %"


def whose_figures(record):
    """Return a sentence on what the figures are of, that no reader can take drawn galaxies for real ones."""
    if is_synthetic(record):
        return "All figures here are of **SYNTHETIC** galaxies, drawn by this program; they say nothing of the sky."
    return f"Data: {record['source'].removeprefix('file:')}."


def headline(q2, q3, q5):
    """Return the table of the three accuracies."""
    comparable = q2["source"] == "galaxy10-sdss"
    columns = ["network", "test accuracy", "95 % interval", "loss", "commonest"]
    columns += ["the course's own run"] if comparable else []
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for key, record in zip(NAMES, (q2, q3, q5), strict=True):
        low, high = record["test_accuracy_interval"]
        cells = [NAMES[key], f"**{percent(record['test_accuracy'])}**", f"{100 * low:.1f}–{percent(high)}"]
        cells += [f"{record['test_loss']:.3f}", percent(record["majority_accuracy"])]
        if comparable:
            accuracy, loss = COURSE[key]
            cells.append(f"{percent(accuracy)}, loss {loss:.3f}")
        rows.append("| " + " | ".join(cells) + " |")
    return whose_figures(q2) + "\n\n" + "\n".join(rows)


def discuss_data(q1):
    """Return what Q1's counts and statistics show."""
    counts = q1["counts"]["main_train"]
    names = q1["class_names"]
    there = [label for label, count in enumerate(counts) if count]
    most, least = max(there, key=counts.__getitem__), min(there, key=counts.__getitem__)
    missing = [names[label] for label, count in enumerate(counts) if not count]
    text = (
        f"{caution(q1)}The training set is unbalanced: {names[most]} has {counts[most]:,} images, {names[least]} "
        f"{counts[least]:,}, {counts[most] / counts[least]:,.0f} times fewer. "
    )
    if missing:
        text += f"Of {', '.join(missing)} there is none. "
    means = ", ".join(f"{value:.3f}" for value in q1["normalised_mean"])
    deviations = ", ".join(f"{value:.3f}" for value in q1["normalised_std"])
    return text + f"After normalising, the training crops have means {means} and standard deviations {deviations}."


def discuss_fcn(q2):
    """Return how Q2's losses behave."""
    better = q2["test_accuracy_interval"][0] > q2["majority_accuracy"]
    verdict = "clearly more than" if better else "not clearly more than"
    return (
        f"{caution(q2)}{describe_curves(q2['history'])} The network ends at {percent(q2['test_accuracy'])}, {verdict} "
        f"the {percent(q2['majority_accuracy'])} of always answering the commonest class."
    )


def discuss_cnn(q3):
    """Return how Q3's losses behave, and how the CNN compares with the FCN."""
    text = f"{caution(q3)}{describe_curves(q3['history'])}\n\n"
    comparison = q3["comparison"]
    if comparison is None:
        return text + "There is no fully connected network on the same data to compare with."
    text += describe_comparison(comparison)
    wins = comparison["cnn_accuracy"] > comparison["fcn_accuracy"] and comparison["p_value"] < 0.05
    fewer = comparison["fcn_parameters"] / comparison["cnn_parameters"]
    if wins:
        text += (
            f"\n\nThe CNN is better with {fewer:.1f} times fewer parameters. Its filters look at 5 x 5 pixels at a "
            "time (locality) and are the same all over the picture (weight sharing), so what it learns of an arm or a "
            "bulge in one place serves in every other; the FCN has to learn each place by itself."
        )
    else:
        text += (
            "\n\nSo here locality and weight sharing, which should help a CNN with pictures, bring no advantage that "
            "this test set could show."
        )
    return text + " What a shift of the picture does to both is measured under *A look inside*."


def discuss_shifts(inside):
    """Return what shifting all test crops does to both networks."""
    furthest = inside["shifts"][-1]
    drop, changed = {}, {}
    for name, figures in inside["under_shifts"].items():
        drop[name] = 100 * (figures["accuracy"][0] - figures["accuracy"][-1])
        changed[name] = figures["changed"][-1]
    steadier = min(changed, key=changed.get)
    other = "cnn" if steadier == "fcn" else "fcn"
    change = {name: f"{abs(points):.1f} points {'lost' if points >= 0 else 'gained'}" for name, points in drop.items()}
    text = (
        f"{caution(inside)}With all test crops shifted by {furthest} pixels, {percent(changed['fcn'])} of the FCN's "
        f"answers change and {percent(changed['cnn'])} of the CNN's (accuracy: {change['fcn']} and {change['cnn']}). "
    )
    if changed[steadier] == changed[other]:
        return text + "Both are equally steady under translation."
    reason = {
        "cnn": "for the FCN a shifted galaxy falls on other weights altogether",
        "fcn": "trained on random crops, the FCN has learnt the shifts by heart",
    }[steadier]
    return text + f"The {steadier.upper()} is the steadier under translation: {reason}."


def discuss_confusion(q4):
    """Return which classes fail, into which, and whether imbalance or likeness is the cause. Raises ValueError."""
    return caution(q4) + "\n\n".join(describe_causes(q4, model) for model in q4["models"])


def discuss_transfer(q5):
    """Return how the transfer compares with the commonest class and with logistic regression."""
    low, high = q5["test_accuracy_interval"]
    majority, logistic = q5["majority_accuracy"], q5["logistic_regression_accuracy"]
    if low > majority:
        verdict = "the features learnt on eight classes do tell the two new ones apart"
    elif high < majority:
        verdict = "the features learnt on eight classes are of no use for the two new ones"
    else:
        verdict = "whether the features help with the two new classes cannot be said on so few images"
    agrees = low <= logistic <= high
    equivalent = (
        "the two agree within the interval, as they should: a linear layer with cross entropy is logistic regression"
        if agrees
        else "the two differ by more than the interval, though a linear layer with cross entropy is logistic "
        "regression: the training has not converged"
    )
    return (
        f"{caution(q5)}{describe_curves(q5['history'])} With {percent(q5['test_accuracy'])} against "
        f"{percent(majority)} for the commonest class, {verdict}. scikit-learn's logistic regression on the same "
        f"features reaches {percent(logistic)}; {equivalent}. Only {q5['trainable_parameters']:,} of "
        f"{q5['parameters']:,} parameters were trained; the backbone's are the same bits as before."
    )


def acknowledge(q1):
    """Return whom the data are owed to."""
    if q1["source"] in THANKS:
        return THANKS[q1["source"]]
    return EFIGI if "efigi" in q1["source"].lower() else f"Pictures from {q1['source'].removeprefix('file:')}."

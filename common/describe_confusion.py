"""The table and the sentences about what a network confuses, and why, from Q4's record as its JSON has it."""

import math

LARGE = 0.5  # a rank correlation is called strong if its whole interval is beyond (Cohen 1988: a large effect)


def most_predicted_as(row, label):
    """Return the class that images of `label` are most often misclassified as, or None; row: that of the matrix."""
    errors = [0 if other == label else count for other, count in enumerate(row)]
    return errors.index(max(errors)) if any(errors) else None


def recall_table(record, model):
    """Return a network's table by class, at most 120 columns wide.

    Recall and its 95 % interval, the recall with adjusted logits with the images gained and lost, the class most
    errors go to, and the cause of the errors.
    """
    results = record["models"][model]
    after = results["adjusted"]
    lines = [
        f"{model.upper() + ': class':31}{'training':>9}{'test':>6}{'recall':>9}  {'95 % interval':15}{'adjusted':>8}"
        f"{'gained':>8}{'lost':>6}  {'errors most as':16}cause"
    ]
    for label, name in enumerate(record["class_names"]):
        line = f"{label} {name:29}{record['train_counts'][label]:9,}{record['test_counts'][label]:6,}"
        if record["test_counts"][label]:
            low, high = results["recall_interval"][label]
            other = most_predicted_as(results["confusion"][label], label)
            most = "–" if other is None else f"{other} ({results['confusion'][label][other]:,})"
            line += f"{results['recall'][label]:9.1%}  {low:6.1%} – {high:6.1%}{after['recall'][label]:8.1%}"
            line += f"{after['gained'][label]:8,}{after['lost'][label]:6,}  {most:16}"
        else:
            line += f"{'–':>9}  {'–':15}{'–':>8}{'–':>8}{'–':>6}  {'–':16}"
        lines.append(line + results["causes"][label]["cause"])
    return "\n".join(lines)


def describe_causes(record, model):
    """Return sentences on a network's recalls, their relation to the training counts, and the errors' causes."""
    results = record["models"][model]
    if "causes" not in results:
        raise ValueError("q4_confusion.json is of an earlier version of q4_confusion.py: run it again")
    sentences = [
        describe_lowest(record, model),
        describe_relation(results["recall_against_count"]),
        describe_adjustment(results["adjusted"]),
        *describe_classes(record["class_names"], results),
        describe_pairs(record["class_names"], results["confused_pairs"]),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def describe_lowest(record, model, most=3):
    """Return a sentence on the classes with the lowest recalls, `most` of them, that have errors."""
    results, names = record["models"][model], record["class_names"]
    failing = [label for label, recall in enumerate(results["recall"]) if recall is not None and recall < 1]
    if not failing:
        return f"The {model.upper()} makes no error."
    texts = []
    for label in sorted(failing, key=results["recall"].__getitem__)[:most]:
        low, high = results["recall_interval"][label]
        row = results["confusion"][label]
        texts.append(
            f"{names[label]} ({row[label]:,} of {sum(row):,} test images, {results['recall'][label]:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%}; {record['train_counts'][label]:,} training images; "
            f"errors mostly predicted as {names[most_predicted_as(row, label)]})"
        )
    return f"The {model.upper()}'s lowest recall is in {'; '.join(texts)}."


def describe_relation(against):
    """Return sentences on how recall goes with the number of training images: in rank, and in odds per factor of ten.

    against: of `imbalance.recall_against_count`.
    """
    classes, spearman = against["classes"], against["spearman"]
    if spearman is None:
        return f"Recall cannot be related to the training count: only {classes} classes, or no difference between them."
    low, high = against["spearman_interval"]
    sign = "direct" if low > 0 else "inverse" if high < 0 else None
    strength = "a strong" if low >= LARGE or high <= -LARGE else "a" if sign == "direct" else "an"
    shown = f"{strength} {sign} relation" if sign else "no relation whose sign is certain"
    text = (
        f"Among these {classes} classes the ranks of recall and training count show {shown} (Spearman {spearman:.2f}, "
        f"95 % interval {low:.2f} to {high:.2f} over other test images of the same classes). "
    )
    if against["slope"] is None:
        return text + "No logistic curve fits the predictions, so it cannot be told whether this holds in general."
    factor, lower, upper = (math.exp(min(value, 700)) for value in (against["slope"], *against["slope_interval"]))
    text += (
        f"Per factor of ten in training images the odds of a correct prediction change by a factor of {factor:.2g} "
        f"(95 % interval {lower:.2g} to {upper:.2g}, with the {classes} classes as units): "
    )
    verdict = {
        "rises": "recall rises with the training count.",
        "falls": "recall falls with the training count.",
        "cannot be told": f"whether recall depends on the training count cannot be told from {classes} classes.",
    }
    return text + verdict[against["relation"]]


def describe_adjustment(adjusted):
    """Return a sentence on what adjusting the logits does to the accuracy and to the balanced accuracy."""
    (before, after), (balanced, balanced_after) = adjusted["accuracy"], adjusted["balanced_accuracy"]
    p_value = adjusted["accuracy_p_value"]
    chance = "unlikely by chance alone" if p_value < 0.05 else "no significant difference"
    return (
        "With the logarithm of the training frequencies subtracted from the logits (logit adjustment, Menon et al. "
        f"2021), the accuracy goes from {before:.1%} to {after:.1%} (McNemar p = {p_value:.2g}: {chance}), the mean "
        f"recall of the classes from {balanced:.1%} to {balanced_after:.1%}."
    )


def describe_classes(names, results):
    """Return one sentence per cause, with the classes whose errors it explains."""
    gained, lost = results["adjusted"]["gained"], results["adjusted"]["lost"]
    groups = {}
    for label, found in enumerate(results["causes"]):
        groups.setdefault(found["cause"], []).append(label)

    def mended(label):
        other = results["causes"][label]["likeness"]
        rest = "; whether the rest is likeness cannot be told" if other is None else ""
        return f"{names[label]} ({gained[label]:,} images gained, {lost[label]:,} lost{rest})"

    def alike(label):
        found = results["causes"][label]
        rest = "; whether imbalance adds to it cannot be told" if found["imbalance"] is None else ""
        return f"{names[label]} ({found['remaining_alike']:,} of {found['remaining']:,}{rest})"

    def few(label):
        return f"{names[label]} ({results['causes'][label]['errors']:,} errors)"

    sentences = {
        "imbalance": ("This raises the recall significantly, so imbalance causes errors, in: ", mended),
        "likeness": ("Most errors that remain go to a class that looks alike, so likeness causes them, in: ", alike),
        "both": ("Imbalance causes errors, and likeness most of those that remain, in: ",
                 lambda label: f"{mended(label)}, {alike(label)}"),
        "neither": ("Neither imbalance nor likeness explains half of the errors in: ", few),
        "cannot be told": ("From so few images the cause cannot be told in: ", few),
        "no training images": ("Without training images, never to be recognised: ", few),
        "no errors": ("No errors in: ", names.__getitem__),
        "no test images": ("No test images of: ", names.__getitem__),
    }  # fmt: skip
    return [
        f"{start}{'; '.join(map(show, groups[cause]))}."
        for cause, (start, show) in sentences.items()
        if cause in groups
    ]


def describe_pairs(names, pairs):
    """Return a sentence on the pairs of classes confused in both directions more than their frequencies imply."""
    beyond = [pair for pair in pairs if pair["beyond_expectation"]]
    if not beyond:
        return "No pair of classes is certain to be confused in both directions more than its frequencies imply."
    texts = []
    for pair in sorted(beyond, key=lambda pair: pair["p_value"]):
        first, second = (names[label] for label in pair["classes"])
        counts = " and ".join(
            f"{count:,} (expected {mean:.1f})" for count, mean in zip(pair["confused"], pair["expected"], strict=True)
        )
        near = {True: "near", False: "not near", None: "distance not measured on so few images"}[pair["near"]]
        apart = "" if pair["distance"] is None else f", {pair['distance']:.1f} spreads apart"
        texts.append(f"{first} and {second}: {counts} images{apart}, {near}")
    return f"Confused in both directions more than frequencies imply: {'; '.join(texts)}."

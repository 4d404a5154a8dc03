"""The table and the sentences about what a network confuses, and why, from Q4's record as its JSON has it."""

import math

LARGE = 0.5  # a rank correlation is called strong if its whole interval is beyond (Cohen 1988: a large effect)


def most_predicted_as(row, label):
    """Return the classes that images of `label` are most often misclassified as, and how many go to each.

    row: the class's row of the confusion matrix. Several classes where they tie, none without errors.
    """
    errors = [0 if other == label else count for other, count in enumerate(row)]
    most = max(errors)
    return [other for other, count in enumerate(errors) if count == most > 0], most


def plural(count, noun):
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def recall_table(record, model):
    """Return a network's table by class, at most 120 columns wide.

    Recall and its 95 % interval; the recall with adjusted logits, and the images that these gain and lose; the class
    that most errors go to, with their number; and the cause of the errors.
    """
    results = record["models"][model]
    after = results["adjusted"]
    lines = [
        f"{model.upper() + ': class':31}{'train':>7}{'test':>6}{'recall':>8}  {'95 % interval':13}{'adjusted':>9}"
        f"  {'+ / -':9}{'most as':11}cause"
    ]
    for label, name in enumerate(record["class_names"]):
        line = f"{label} {name:29}{record['train_counts'][label]:7,}{record['test_counts'][label]:6,}"
        if record["test_counts"][label]:
            interval = "{:.1%} – {:.1%}".format(*results["recall_interval"][label]).replace("%", "", 1)
            others, count = most_predicted_as(results["confusion"][label], label)
            most = f"{'several' if len(others) > 2 else ', '.join(map(str, others))} ({count:,})" if others else "–"
            change = f"{after['gained'][label]:,} / {after['lost'][label]:,}"
            line += f"{results['recall'][label]:8.1%}  {interval:13}{after['recall'][label]:9.1%}  {change:9}{most:11}"
        else:
            line += f"{'–':>8}  {'–':13}{'–':>9}  {'–':9}{'–':11}"
        lines.append(line + results["causes"][label]["cause"])
    return "\n".join(lines)


def describe_causes(record, model):
    """Return sentences, one per line, on a network's recalls and why it errs: record, as the JSON has it.

    Raises ValueError for a record of a version without the causes.
    """
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
    return "\n".join(sentences)


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
        others = " and ".join(names[other] for other in most_predicted_as(row, label)[0])
        texts.append(
            f"{names[label]} ({row[label]:,} of {plural(sum(row), 'test image')}, {results['recall'][label]:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%}; {plural(record['train_counts'][label], 'training image')}; "
            f"errors most often predicted as {others})"
        )
    return f"The {model.upper()}'s lowest recall is in {'; '.join(texts)}."


def per_doubling(slope):
    """Return as text the factor that a slope of log odds per factor of ten means for twice the count."""
    factor = math.exp(min(slope * math.log10(2), 700))
    return f"{factor:.0f}" if 10 <= factor < 1e6 else f"{factor:.2f}" if factor < 10 else f"{factor:.2g}"


def describe_relation(against):
    """Return sentences on how recall goes with the number of training images, in rank and in odds.

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
    factor, lower, upper = (per_doubling(value) for value in (against["slope"], *against["slope_interval"]))
    text += (
        f"With twice the training images the odds of a correct prediction are {factor} times as high "
        f"(95 % interval {lower} to {upper}, with the {classes} classes as units): "
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
        found = results["causes"][label]
        rest = "; whether the rest is likeness cannot be told" if found["likeness"] is None else ""
        if found["likeness"]:
            rest = f"; {found['remaining_alike']:,} of the remaining {plural(found['remaining'], 'error')}"
        return f"{names[label]} ({plural(gained[label], 'image')} gained, {lost[label]:,} lost{rest})"

    def alike(label):
        found = results["causes"][label]
        rest = "; whether imbalance adds to it cannot be told" if found["imbalance"] is None else ""
        return f"{names[label]} ({found['remaining_alike']:,} of {found['remaining']:,}{rest})"

    def few(label):
        return f"{names[label]} ({plural(results['causes'][label]['errors'], 'error')})"

    sentences = {
        "imbalance": ("This raises the recall significantly, so imbalance causes errors, in: ", mended),
        "likeness": ("Most errors that remain go to a class that looks alike, so likeness causes them, in: ", alike),
        "both": ("Imbalance causes errors, and likeness most of those that remain, in: ", mended),
        "neither": ("Neither imbalance nor likeness explains half of the errors in: ", few),
        "cannot be told": ("From these test images the cause cannot be told in: ", few),
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
    for pair in beyond:
        first, second = (names[label] for label in pair["classes"])
        logits = min(("plain", "adjusted"), key=lambda logits: pair[logits]["p_value"])
        confused, expected = pair[logits]["confused"], pair[logits]["expected"]
        counts = " and ".join(
            f"{count:,} where {mean:.1f} are expected" for count, mean in zip(confused, expected, strict=True)
        )
        near = {True: "near", False: "not near", None: "whether near cannot be told"}[pair["near"]]
        apart = "" if pair["distance"] is None else f"mean features {pair['distance']:.1f} spreads apart, "
        texts.append(
            f"{first} and {second} ({counts}{', with adjusted logits' if logits == 'adjusted' else ''}; {apart}{near})"
        )
    return f"Confused in both directions more than frequencies imply: {'; '.join(texts)}."

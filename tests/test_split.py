from common.galaxies.facts import CLASS_COUNTS, SUBSETS
from common.galaxies.split import (
    SPLITS,
    file_order_split,
    fingerprint,
    split_indices,
    stratified_split,
    train_sizes,
)
from common.galaxies.synthetic import synthetic_counts

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

GALAXY10 = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint8), CLASS_COUNTS))
SIZES = {"main": 18000, "transfer": 1000}
UNSET = {"main": None, "transfer": None}


def split_of(labels, sizes, split="stratified"):
    return split_indices(labels, sizes, split, seed=0)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=10), st.data())
def test_stratified_split_is_complete_disjoint_and_even(counts, data):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    train_size = data.draw(st.integers(len(counts), len(labels) - len(counts)))
    train, test = stratified_split(labels, train_size, seed=3)
    assert len(train) == train_size
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        assert label in labels[train]
        assert label in labels[test]
        share = count * train_size / len(labels)
        limits = 1, count - 1
        assert abs((labels[train] == label).sum() - np.clip(share, *limits)) <= len(counts)


def test_stratified_shares_are_within_one_of_sklearns_on_galaxy10():
    labels = GALAXY10[GALAXY10 < 8]
    train, _ = stratified_split(labels, 18000, seed=0)
    reference, _ = train_test_split(labels, train_size=18000, stratify=labels, random_state=0)
    assert np.abs(np.bincount(labels[train]) - np.bincount(reference)).max() <= 1
    assert np.bincount(labels[train])[5] == 15  # of 17


def test_splits_depend_on_the_seed_and_their_order_is_random():
    labels = GALAXY10[GALAXY10 < 8]
    first, again, other = (stratified_split(labels, 18000, seed)[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert set(first) != set(other)
    assert (
        np.abs(np.bincount(labels[first[:1000]], minlength=8) / 1000 - np.bincount(labels) / len(labels)).max() < 0.05
    )


def test_file_order_split_takes_the_first_images():
    train, test = file_order_split(np.zeros(10), 7, seed=5)
    assert train.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert test.tolist() == [7, 8, 9]


def test_the_only_image_of_a_class_is_for_training():
    train, test = stratified_split(np.array([0, 0, 0, 0, 1]), 3, seed=0)
    assert 4 in train
    assert 4 not in test


@pytest.mark.parametrize("name", SPLITS)
def test_subsets_are_disjoint_and_complete_and_contain_the_right_classes(name):
    indices = split_of(GALAXY10, SIZES, name)
    assert {subset: len(chosen) for subset, chosen in indices.items()} == {
        "main_train": 18000, "main_test": 2360, "transfer_train": 1000, "transfer_test": 425}  # fmt: skip
    assert sorted(np.concatenate(list(indices.values()))) == list(range(21785))
    assert (GALAXY10[indices["main_test"]] < 8).all()
    assert (GALAXY10[indices["transfer_test"]] >= 8).all()


def test_default_sizes_are_the_assignments_or_in_the_same_proportion(capsys):
    assert train_sizes(GALAXY10, UNSET) == SIZES
    assert capsys.readouterr().out == ""
    as_many = np.where(GALAXY10 == 0, 1, GALAXY10)
    for labels in (np.repeat(np.arange(10), 30), np.delete(GALAXY10, 5), np.append(GALAXY10, 9), as_many):
        main, transfer = (labels < 8).sum(), (labels >= 8).sum()
        sizes = train_sizes(labels, UNSET)
        assert sizes == {"main": round(main * 18000 / 20360), "transfer": round(transfer * 1000 / 1425)}
        assert capsys.readouterr().out == (
            "These are not Galaxy10 SDSS's 21,785 images. "
            f"Training images: {sizes['main']:,} of {main:,} (classes 0-7), "
            f"{sizes['transfer']:,} of {transfer:,} (classes 8 and 9); change with --main-train and --transfer-train.\n"
        )


def test_given_sizes_override_the_defaults(capsys):
    labels = np.repeat(np.arange(10), 30)
    assert train_sizes(GALAXY10, {"main": 200, "transfer": None}) == {"main": 200, "transfer": 1000}
    assert train_sizes(labels, {"main": 100, "transfer": 50}) == {"main": 100, "transfer": 50}
    assert capsys.readouterr().out == ""
    assert train_sizes(labels, {"main": None, "transfer": 50}) == {"main": 212, "transfer": 50}
    assert "212 of 240 (classes 0-7), 50 of 60 (classes 8 and 9); change" in capsys.readouterr().out


@pytest.mark.parametrize(("task", "images", "limits"), [("main", 240, "8 to 232"), ("transfer", 60, "2 to 58")])
def test_impossible_sizes_are_rejected_with_the_option(task, images, limits):
    labels = np.repeat(np.arange(10), 30)
    with pytest.raises(ValueError, match=f"^--{task}-train {images}: there are {images} images, and at least one is "):
        train_sizes(labels, UNSET | {task: images})
    for size in (1, images - 1):
        sizes = train_sizes(labels, UNSET | {task: size})
        with pytest.raises(ValueError, match=f"^--{task}-train {size}: must be from {limits}, so that every class is"):
            split_of(labels, sizes)


def test_sizes_in_the_assignments_proportion_leave_an_image_of_every_class_for_testing():
    for count in range(40, 400, 3):
        labels = np.repeat(np.arange(10, dtype=np.uint8), synthetic_counts(count))
        for subset in split_of(labels, train_sizes(labels, UNSET)).values():
            assert len(np.unique(labels[subset])) in (8, 2)


def test_a_file_sorted_by_class_is_rejected_if_a_subset_would_have_one_class():
    labels = np.sort(GALAXY10)
    with pytest.raises(ValueError, match=r"all 2,360 images of main_test are of class 7: .*use --split stratified"):
        split_of(np.concatenate([labels, np.full(2000, 7, dtype=np.uint8)]), SIZES | {"main": 20000}, "file")
    with pytest.raises(ValueError, match=r"all 425 images of transfer_test are of class 9: .*--split stratified"):
        split_of(labels, SIZES, "file")
    with pytest.raises(ValueError, match=r"all 900 images of transfer_train are of class 8: .*--split stratified"):
        split_of(labels, SIZES | {"transfer": 900}, "file")
    split_of(labels, SIZES)


def test_training_needs_two_classes_but_testing_does_not():
    labels = np.repeat(np.arange(9, dtype=np.uint8), 10)
    with pytest.raises(ValueError, match="all 5 images of transfer_train are of class 8: the file has no others"):
        split_of(labels, {"main": 40, "transfer": 5})
    lone = np.append(labels, np.uint8(9))  # whose only image trains
    indices = split_of(lone, {"main": 40, "transfer": 5})
    assert set(lone[indices["transfer_test"]]) == {8}


def test_fingerprint_changes_with_any_image_label_or_order():
    def make():
        images = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 5, 3), dtype=np.uint8)
        data = {f"{name}_images": torch.from_numpy(images[i]).permute(0, 3, 1, 2) for i, name in enumerate(SUBSETS)}
        return data | {f"{name}_labels": torch.arange(6) for name in SUBSETS}

    prints = {fingerprint(make())}
    assert fingerprint(make()) in prints
    for name in SUBSETS:
        for kind, change in (("images", lambda t: t.add_(1)), ("labels", lambda t: t.copy_(t.flip(0)))):
            data = make()
            change(data[f"{name}_{kind}"])
            prints.add(fingerprint(data))
    assert len(prints) == 1 + 2 * len(SUBSETS)

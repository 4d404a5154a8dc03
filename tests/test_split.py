import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from common.galaxies.facts import CLASS_COUNTS
from common.galaxies.split import (
    SPLITS,
    apportion,
    assignment_sizes,
    file_order_split,
    fingerprint,
    split_indices,
    stratified_split,
)
from common.galaxies.synthetic import class_counts
from q1_data import read_subsets

GALAXY10 = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint8), CLASS_COUNTS))
SIZES = {"main": 18000, "transfer": 1000}


def split_of(labels, train_sizes, split="stratified"):
    groups = {"main": np.flatnonzero(labels < 8), "transfer": np.flatnonzero(labels >= 8)}
    return split_indices(labels, groups, train_sizes, split, seed=0)


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


def test_file_order_split_takes_the_first_ones():
    train, test = file_order_split(np.zeros(10), 7, seed=5)
    assert train.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert test.tolist() == [7, 8, 9]


def test_a_class_of_one_image_trains():
    train, test = stratified_split(np.array([0, 0, 0, 0, 1]), 3, seed=0)
    assert 4 in train
    assert 4 not in test


def test_apportion_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="between 2 and 6"):
        apportion(7, np.array([3, 3]), np.array([1, 1]), np.array([3, 3]))


@pytest.mark.parametrize("name", SPLITS)
def test_subsets_are_disjoint_and_complete_and_hold_the_right_classes(name):
    indices = split_of(GALAXY10, SIZES, name)
    assert {subset: len(chosen) for subset, chosen in indices.items()} == {
        "main_train": 18000, "main_test": 2360, "transfer_train": 1000, "transfer_test": 425}  # fmt: skip
    assert sorted(np.concatenate(list(indices.values()))) == list(range(21785))
    assert (GALAXY10[indices["main_test"]] < 8).all()
    assert (GALAXY10[indices["transfer_test"]] >= 8).all()


def test_too_few_images_are_counted_and_sizes_proposed_that_work():
    labels = np.repeat(np.arange(10, dtype=np.uint8), 30)
    with pytest.raises(
        ValueError, match=r"240 images of classes 0-7 and 60 of 8 and 9.*--main-train 212 --transfer-train 42"
    ):
        split_of(labels, SIZES)
    sizes = assignment_sizes(np.bincount(labels))
    assert sizes == {"main": 212, "transfer": 42}
    split_of(labels, {"main": 212, "transfer": 42})
    assert assignment_sizes(CLASS_COUNTS) == SIZES


def test_sizes_in_the_assignments_proportion_leave_an_image_of_every_class_for_testing():
    for count in range(40, 400):
        labels = np.repeat(np.arange(10, dtype=np.uint8), class_counts(count))
        indices = split_of(labels, assignment_sizes(np.bincount(labels)))
        for subset in indices.values():
            assert len(np.unique(labels[subset])) in (8, 2)


def test_a_file_sorted_by_class_is_refused_where_a_subset_would_have_one_class():
    labels = np.sort(GALAXY10)
    with pytest.raises(ValueError, match=r"all 2,360 images of main_test are of class 7: .*use --split stratified"):
        split_of(np.concatenate([labels, np.full(2000, 7, dtype=np.uint8)]), SIZES | {"main": 20000}, "file")
    with pytest.raises(ValueError, match=r"all 425 images of transfer_test are of class 9: .*--split stratified"):
        split_of(labels, SIZES, "file")
    with pytest.raises(ValueError, match=r"all 900 images of transfer_train are of class 8: .*--split stratified"):
        split_of(labels, SIZES | {"transfer": 900}, "file")
    split_of(labels, SIZES)


def test_one_class_alone_cannot_train_but_may_be_all_that_is_left_to_test_on():
    labels = np.repeat(np.arange(9, dtype=np.uint8), 10)
    with pytest.raises(ValueError, match="all 5 images of transfer_train are of class 8: the file has no others"):
        split_of(labels, {"main": 40, "transfer": 5})
    lone = np.append(labels, np.uint8(9))  # whose only image trains
    indices = split_of(lone, {"main": 40, "transfer": 5})
    assert set(lone[indices["transfer_test"]]) == {8}


def test_images_and_labels_reach_their_subsets_together_and_held_out_labels_are_0_and_1():
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 20))
    images = rng.integers(0, 256, (200, 6, 6, 3), dtype=np.uint8)
    indices = split_of(labels, {"main": 100, "transfer": 25})
    data = read_subsets(labels, iter([images[:70], images[70:75], images[75:]]), indices, 6)
    for subset, chosen in indices.items():
        expected = torch.from_numpy(images[chosen].transpose(0, 3, 1, 2).copy())
        assert torch.equal(data[f"{subset}_images"], expected)
        assert data[f"{subset}_labels"].dtype == torch.int64
        assert torch.equal(data[f"{subset}_indices"], torch.from_numpy(chosen))
        shift = 8 if subset.startswith("transfer") else 0
        assert data[f"{subset}_labels"].tolist() == (labels[chosen].astype(int) - shift).tolist()
    assert set(data["transfer_test_labels"].tolist()) == {0, 1}


def test_fingerprint_changes_with_any_image_label_or_order():
    labels = np.repeat(np.arange(10, dtype=np.uint8), 4)
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 3), dtype=np.uint8)
    indices = split_of(labels, {"main": 24, "transfer": 4})
    make = lambda: read_subsets(labels, iter([images]), indices, 5)  # noqa: E731
    prints = {fingerprint(make())}
    assert fingerprint(make()) in prints
    for key, change in (("main_test_images", lambda t: t.add_(1)), ("main_train_labels", lambda t: t.copy_(t.flip(0)))):
        data = make()
        change(data[key])
        prints.add(fingerprint(data))
    assert len(prints) == 3

"""500 damaged files: none may end in a traceback, a crash, a hang or too much memory."""

import numpy as np
import pytest
from fuzz import MEMORY, SECONDS, damaged, fuzz, verdict, write_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_seeds(folder)
    return folder


def test_the_whole_files_are_taken(seeds):
    for path in sorted(seeds.glob("*.*")):
        assert verdict(path)[0] == "fine", path


@pytest.mark.parametrize(("kind", "count"), [("h5", 500), ("pt", 150)])
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, seeds):
    verdicts, findings, (seconds, memory) = fuzz(count, 467, seeds, [kind])
    assert findings == []
    assert seconds < SECONDS
    assert memory < MEMORY
    assert verdicts["refused"] > count / 3  # the damages do damage


def test_damage_is_done():
    content = bytes(range(256)) * 40
    changed = [damaged(content, np.random.default_rng(seed)) for seed in range(100)]
    assert sum(new != content for new in changed) > 95
    assert any(len(new) < len(content) for new in changed)

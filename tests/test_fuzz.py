"""500 damaged files: none may end in a traceback, a crash, a hang or too much memory."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from fuzz import MEMORY, SECONDS, damaged, fuzz, verdicts, write_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_seeds(folder)
    return folder


def test_the_whole_files_are_taken(seeds):
    paths = sorted(seeds.glob("*.*"))
    assert {path.name: words for path, (words, *_) in zip(paths, verdicts(paths), strict=True)} == {
        path.name: "fine" for path in paths
    }


@pytest.mark.parametrize(("kind", "count"), [("h5", 500), ("pt", 150)])
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, seeds):
    counted, findings, (seconds, memory) = fuzz(count, 467, seeds, [kind])
    assert findings == []
    assert seconds < SECONDS
    assert memory < MEMORY
    assert counted["refused"] > count / 3  # the damages do damage


def crashes_on_the_second(paths, report):
    for path in paths:
        if path.name == "second":
            os.kill(os.getpid(), signal.SIGKILL)
        report.send((0, "", 0.1, 10))


def test_a_file_that_crashes_is_found_and_those_after_it_are_examined():
    paths = [Path(name) for name in ("first", "second", "third")]
    assert [words for words, *_ in verdicts(paths, crashes_on_the_second)] == ["fine", "crash: -9", "fine"]


def test_damage_is_done():
    content = bytes(range(256)) * 40
    changed = [damaged(content, np.random.default_rng(seed)) for seed in range(100)]
    assert sum(new != content for new in changed) > 95
    assert any(len(new) < len(content) for new in changed)

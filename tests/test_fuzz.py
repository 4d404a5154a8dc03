"""Damaged files, of which `python tests/fuzz.py` tries more: none may end in a traceback, a crash or a hang."""

import os
import signal
from pathlib import Path

import pytest
from fuzz import fuzz, verdicts, write_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_seeds(folder)
    return folder


def test_the_whole_files_are_taken(seeds):
    paths = sorted(seeds.glob("*.*"))
    assert dict(zip(paths, verdicts(paths), strict=True)) == dict.fromkeys(paths, "fine")


@pytest.mark.parametrize(("kind", "count"), [("h5", 120), ("pt", 80)])
def test_damaged_files_are_read_or_refused_in_a_sentence(kind, count, seeds):
    counted, findings = fuzz(count, 467, seeds, [kind])
    assert findings == []
    assert counted["refused"] > count / 3  # the damages do damage


def crashes_on_the_second(paths, report):
    for path in paths:
        if path.name == "second":
            os.kill(os.getpid(), signal.SIGKILL)
        report.send((0, "", 10))


def test_a_file_that_crashes_is_found_and_those_after_it_are_examined():
    paths = [Path(name) for name in ("first", "second", "third")]
    assert list(verdicts(paths, crashes_on_the_second)) == ["fine", "crash", "fine"]

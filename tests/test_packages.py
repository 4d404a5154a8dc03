"""With a PYTHON of your own, make names the packages that are missing or too old before anything runs."""

import subprocess
import sys

from common import packages

import pytest
from conftest import ROOT
from packaging.version import Version
from test_makefile import ALONE, MAKE


@pytest.mark.parametrize("text", ["2.6.0+cpu", "1.26", "3", "2.14.1", "0.29.1.post2"])
def test_release_numbers_are_those_of_the_packaging_library(text):
    assert packages.release(text)[: len(Version(text).release)] == list(Version(text).release)


@pytest.mark.parametrize(("requirement", "met"), [
    ("pytest>=8", True), ("pytest", True), ("pytest>=1000", False), ("no-such-package>=1", False)])  # fmt: skip
def test_a_requirement_is_met_by_a_version_that_is_new_enough(requirement, met):
    assert packages.is_met(requirement) == met


def test_make_names_what_is_missing_with_the_pip_command_and_runs_nothing(tmp_path):
    wanted = "h5py>=3\nno-such-package>=1.5\npytest>=1000\n"
    for name in ("Makefile", "common"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "requirements.txt").write_text(wanted)
    done = subprocess.run([*MAKE, "all"], cwd=tmp_path, capture_output=True, text=True, env=ALONE, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    install = f'{sys.executable} -m pip install "no-such-package>=1.5" "pytest>=1000"'
    assert len(done.stderr.splitlines()) == 1
    assert f"packages are missing or too old: {install}" in done.stderr
    assert subprocess.run([*MAKE, "help"], cwd=tmp_path, capture_output=True, env=ALONE, check=False).returncode == 0

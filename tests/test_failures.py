"""What docs/failures.md says happens if something goes wrong: every row of its table has a test."""

import re

from conftest import ROOT


def test_every_row_names_a_test_that_exists():
    lines = (ROOT / "docs" / "failures.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and line != "| | what you see |"]
    named = re.findall(r"<!-- (test_\w+)\.(test_\w+) --> \|$", "\n".join(rows), re.MULTILINE)
    assert len(named) == len(rows) > 0
    for module, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / f"{module}.py").read_text(), f"{module}.{test} does not exist"

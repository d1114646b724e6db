"""Prints `123 passed, 0 failed, 4 skipped` from a JUnit report; fails unless tests ran and passed.

Usage: python scripts/test_summary.py build/coopnet_ros/pytest.xml
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def summarise(report: Path) -> tuple[str, bool]:
    """One line for a JUnit report, and whether it means success."""
    if not report.exists():
        return f"0 passed, 0 failed, 0 skipped (no tests ran: there is no {report})", False
    try:
        root = ElementTree.parse(report).getroot()
    except ElementTree.ParseError as error:
        return f"0 passed, 0 failed, 0 skipped ({report} is not a report: {error})", False
    suites = list(root.iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    passed = total - failed - skipped
    line = f"{passed} passed, {failed} failed, {skipped} skipped"
    if passed == 0 and failed == 0:
        return f"{line} (no tests ran)", False
    return line, failed == 0


if __name__ == "__main__":
    text, is_success = summarise(Path(sys.argv[1]))
    print(text)
    sys.exit(0 if is_success else 1)

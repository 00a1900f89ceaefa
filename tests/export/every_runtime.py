"""`make test-runtimes`: all tests of exports, where one that is skipped counts as failed: a runtime is missing then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


class _Skipped:
    """Collects what was skipped, single tests and whole files."""

    def __init__(self) -> None:
        self.reports: list[Any] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reports += [report] * report.skipped

    def pytest_collectreport(self, report: Any) -> None:
        self.reports += [report] * report.skipped


def main() -> int:
    """Run them; 0 if all passed and none was skipped."""
    skipped = _Skipped()
    code = int(pytest.main(["-q", str(Path(__file__).parent), *sys.argv[1:]], plugins=[skipped]))
    for report in skipped.reports:
        print(f"skipped, which counts as failed here: {report.nodeid}: {report.longrepr[2]}")
    return code or int(bool(skipped.reports))


if __name__ == "__main__":
    sys.exit(main())

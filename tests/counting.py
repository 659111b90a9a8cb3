"""Count the checks of a whole run, those of the scenarios' own test runs included."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest


class Counts:
    """Prints ``N passed, N failed, N skipped`` as the run's last line."""

    NAME = "pag-counts"

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    def add_junit(self, report: Path) -> tuple[int, int, int]:
        """Add the checks that a JUnit report lists; return how many passed, failed and were skipped."""
        passed = failed = skipped = 0
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314, our own pytest wrote it
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        return passed, failed, skipped

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed += report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:  # in set-up and clean-up too
            self.failed += 1
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if not config.option.collectonly:
            print(f"\n{self.passed} passed, {self.failed} failed, {self.skipped} skipped")

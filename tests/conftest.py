"""What all tests share: markers, the order of the kinds of tests, and the last line that counts everything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
for directory in (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "molecule/testbed", REPOSITORY / "molecule/shared"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from counting import Counts  # noqa: E402

_MARKERS = (
    "lint: checks the source, not what it does",
    "network: needs package registries or archives",
    "root: needs root",
    "scenario: needs root, a network and machines",
    "long: takes too long for every day; ./test.sh long",
)

# What is quick and likely to fail comes first.
_ORDER = ("lint", "network", "root", "scenario", "long")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(Counts(), Counts.NAME)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("lint"):
            return 0
        return max((1 + _ORDER.index(name) for name in _ORDER if item.get_closest_marker(name)), default=1)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that is tested."""
    return REPOSITORY

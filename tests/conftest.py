"""What all tests share: markers, the order of the kinds of tests, and the last line that counts everything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
for directory in (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "molecule/testbed", REPOSITORY / "molecule/shared"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from counting import Counts  # noqa: E402
from scenarios import Scenarios  # noqa: E402

_MARKERS = (
    "lint: checks the source, not what it does",
    "network: needs package registries or archives",
    "root: needs root",
    "scenario: needs root, a network and machines",
    "process: runs, kills or compares whole programs and builds, for seconds; not in ./test.sh unit",
    "long: takes too long for every day; ./test.sh long",
)

# What is quick and likely to fail comes first.
_ORDER = ("lint", "network", "root", "scenario", "long")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    # Of several processes, the first one counts.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counts(), Counts.NAME)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("lint"):
            return 0
        return max((1 + _ORDER.index(name) for name in _ORDER if item.get_closest_marker(name)), default=1)

    items.sort(key=rank)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let tests compile Python code where nodes do; with all tests loaded, the directory of our own has served."""
    sys.pycache_prefix = None
    sys.dont_write_bytecode = True
    os.environ.pop("PYTHONPYCACHEPREFIX", None)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that is tested."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def scenarios(request: pytest.FixtureRequest) -> Iterator[Scenarios]:
    """The scenarios among the tests that were chosen. Unless they are long, they run beside all other tests."""
    logs = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pag" / "test-logs"
    logs.mkdir(parents=True, exist_ok=True)
    chosen = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if hasattr(item, "callspec") and "scenario" in item.callspec.params
    ]
    found = Scenarios(chosen, logs)
    if not found.are_long:
        found.start()
    yield found
    found.stop()

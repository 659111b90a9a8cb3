"""Packages that came from the mirror: only these are removed, and only those that nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ansible.module_utils import brought_packages as module
from ansible.module_utils.mirror_apt import MirrorAptError, brought_packages, record_brought

DEPENDS = {
    "rsync": ["libpopt0"],
    "libpopt0": [],
    "acl": [],
    "python3": [],
    "backup-tool": ["rsync"],
    "postgresql": ["postgresql-15"],
    "postgresql-15": [],
}


class Machine:
    """What dpkg and apt would say of a machine with some of the packages above."""

    def __init__(self, installed: Sequence[str], configuration: Sequence[str] = ()) -> None:
        self.installed = list(installed)
        self.configuration = list(configuration)
        self.purged: list[str] = []
        self.surprise = ""

    def run(self, command: Sequence[str]) -> str:
        match command:
            case ["dpkg", "--print-architecture"]:
                return "amd64\n"
            case ["dpkg-query", *_]:
                lines = [f"ii \t{name}:amd64" for name in self.installed]
                return "\n".join([*lines, *(f"rc \t{name}:amd64" for name in self.configuration)])
        words = [word.partition(":")[0] for word in command[1:] if not word.startswith("--")]
        if words[0] == "autoremove":
            notes = next(word for word in command if "extended_states=" in word).partition("extended_states=")[2]
            automatic = {
                line.split()[1] for line in Path(notes).read_text().splitlines() if line.startswith("Package:")
            }
            return self._removing(self._unneeded(automatic))
        removing = self._with_dependents(words[1:])
        if "--simulate" in command:
            return self._removing(removing)
        self.purged = sorted(words[1:])
        self.installed = [name for name in self.installed if name not in removing]
        self.configuration = [name for name in self.configuration if name not in removing]
        return ""

    def _unneeded(self, automatic: set[str]) -> set[str]:
        needed: set[str] = set()
        queue = [name for name in self.installed if name not in automatic]
        while queue:
            name = queue.pop()
            needed.add(name)
            queue += [other for other in DEPENDS[name] if other not in needed]
        return set(self.installed) - needed

    def _with_dependents(self, names: Sequence[str]) -> set[str]:
        removing = set(names)
        for _ in DEPENDS:
            removing |= {name for name in self.installed if removing & set(DEPENDS[name])}
        return removing | ({self.surprise} if self.surprise else set())

    def _removing(self, names: set[str]) -> str:
        return "".join(f"Purg {name} [1.0]\n" for name in sorted(names))


Make = Callable[..., Machine]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "pag" / "brought.json"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(*arguments: Sequence[str]) -> Machine:
        machine = Machine(*arguments)
        monkeypatch.setattr(module, "run", machine.run)
        monkeypatch.setattr(module, "finish_interrupted", lambda: None)
        return machine

    return make


def _names(packages: Sequence[str]) -> list[str]:
    return [package.partition(":")[0] for package in packages]


def test_what_we_brought_goes_and_what_was_there_stays(make: Make, record: Path) -> None:
    machine = make(["python3", "acl", "rsync", "libpopt0"])
    record_brought(["rsync:amd64", "libpopt0:amd64"], record)
    done = module.remove((), record)
    assert _names(done.removed) == ["libpopt0", "rsync"]
    assert machine.installed == ["python3", "acl"]
    assert not record.exists()


def test_what_another_package_needs_now_stays(make: Make, record: Path) -> None:
    machine = make(["python3", "acl", "rsync", "libpopt0", "backup-tool"])
    record_brought(["rsync:amd64", "libpopt0:amd64", "acl:amd64"], record)
    done = module.remove((), record)
    assert _names(done.removed) == ["acl"]
    assert done.kept == {"libpopt0:amd64": "needed by backup-tool", "rsync:amd64": "needed by backup-tool"}
    assert machine.installed == ["python3", "rsync", "libpopt0", "backup-tool"]
    assert brought_packages(record) == ["libpopt0:amd64", "rsync:amd64"]


def test_what_is_to_be_kept_stays_with_what_it_needs(make: Make, record: Path) -> None:
    make(["postgresql", "postgresql-15", "acl"])
    record_brought(["postgresql:amd64", "postgresql-15:amd64", "acl:amd64"], record)
    done = module.plan_removal(["postgresql"], record)
    assert _names(done.removed) == ["acl"]
    assert done.kept == {"postgresql:amd64": "kept", "postgresql-15:amd64": "needed by postgresql"}


def test_what_a_removal_that_was_cut_short_left_goes(make: Make, record: Path) -> None:
    machine = make(["python3"], ["rsync"])
    record_brought(["rsync:amd64", "acl:amd64"], record)
    module.remove((), record)
    assert (machine.purged, machine.configuration) == (["rsync"], [])


def test_nothing_is_removed_that_is_not_in_the_record(make: Make, record: Path) -> None:
    machine = make(["rsync", "libpopt0"])
    assert module.remove((), record).removed == ()
    assert machine.purged == []


def test_a_removal_that_would_take_more_is_refused(make: Make, record: Path) -> None:
    machine = make(["python3", "acl"])
    machine.surprise = "python3"
    record_brought(["acl:amd64"], record)
    with pytest.raises(MirrorAptError, match="apt would remove python3:amd64 as well"):
        module.remove((), record)
    assert machine.purged == []
    assert brought_packages(record) == ["acl:amd64"]

"""The difference of two bundles for people: as text, or as Markdown for a change board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airgap.diff import Difference, PackageChange, Side
from airgap.progress import human_size
from airgap.tables import markdown_table, text_table

_NONE = "-"


@dataclass(frozen=True)
class _Section:
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


def text_report(difference: Difference) -> str:
    """Return the difference as text: a summary, and a table of each kind of change that there is."""
    lines = [summary(difference)]
    for section in _sections(difference):
        lines += ["", section.title, *(f"  {line}" for line in text_table(section.headers, section.rows))]
    return "\n".join(lines) + "\n"


def markdown_report(difference: Difference) -> str:
    """Return the difference as a Markdown document."""
    lines = [f"# Bundle {difference.old.version} to {difference.new.version}", "", summary(difference)]
    for section in _sections(difference):
        lines += ["", f"## {section.title}", "", *markdown_table(section.headers, section.rows)]
    return "\n".join(lines) + "\n"


def summary(difference: Difference) -> str:
    """Return the change in a few sentences."""
    counts = Counter(package.what for package in difference.packages)
    licences = sum(1 for package in difference.packages if _licence_changes(package))
    return (
        f"From bundle {_named(difference.old)} to bundle {_named(difference.new)}: "
        f"{_counted(counts['enters'], 'package')} in, {counts['leaves']} out, {counts['upgrade']} upgraded, "
        f"{counts['downgrade']} downgraded, {counts['changed']} otherwise changed; "
        f"{_counted(licences, 'licence')} changed; {_counted(len(difference.environments), 'environment')} and "
        f"{_counted(len(difference.files), 'file')} of playbooks, flows and software changed. "
        f"The new bundle carries {_counted(difference.new.files, 'file')}, {human_size(difference.new.bytes)}, "
        f"of which {human_size(difference.new_bytes)} are new."
    )


def _named(side: Side) -> str:
    delta = f", a delta on {side.base[:12]}" if side.base else ""
    return f"{side.version} (manifest {side.manifest_sha256[:12]}{delta})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sections(difference: Difference) -> Iterator[_Section]:
    targets = [
        *([target, "enters"] for target in difference.targets_enter),
        *([target, "leaves"] for target in difference.targets_leave),
    ]
    if difference.old.interpreter != difference.new.interpreter:
        targets.append([f"Python: {difference.old.interpreter} to {difference.new.interpreter}", "changed"])
    if targets:
        yield _Section("Targets", ("target", "change"), targets)
    if difference.environments:
        yield _Section(
            "Environments",
            ("environment", "target", "change", "digest", "Prefect"),
            [
                [
                    change.name,
                    change.target,
                    change.what,
                    _change((change.old_digest or "")[:12], (change.new_digest or "")[:12]),
                    _change(change.old_prefect, change.new_prefect),
                ]
                for change in difference.environments
            ],
        )
    for kind in ("conda", "PyPI", "Debian", "Ansible"):
        packages = [package for package in difference.packages if package.kind == kind]
        if packages:
            title = "Ansible collections" if kind == "Ansible" else f"{kind} packages"
            yield _package_section(title, packages)
    if difference.files:
        rows = [[file.path, file.kind, file.what, human_size(file.bytes)] for file in difference.files]
        yield _Section("Playbooks, flows and software", ("file", "kind", "change", "travels"), rows)


def _package_section(title: str, packages: Sequence[PackageChange]) -> _Section:
    places = any(package.place for package in packages)
    return _Section(
        title,
        ("package", *(("for",) if places else ()), "change", "version", "travels", "licence"),
        [
            [
                package.name,
                *((package.place,) if places else ()),
                package.what,
                _change(package.old_version, package.new_version),
                human_size(package.bytes) if package.bytes else _NONE,
                _change(package.old_licence, package.new_licence)
                if _licence_changes(package)
                else package.new_licence or package.old_licence or _NONE,
            ]
            for package in packages
        ],
    )


def _change(old: str | None, new: str | None) -> str:
    """Return ``old -> new``, or the one that there is, or that does not change."""
    if old and new and old != new:
        return f"{old} -> {new}"
    return new or old or _NONE


def _licence_changes(package: PackageChange) -> bool:
    both = package.old_version is not None and package.new_version is not None
    return both and package.old_licence != package.new_licence

"""Builds again what was built before, where nothing that a bundle is made of has changed since.

The first time, a build remembers its texts as they were written, and which packages followed. Of the same inputs, the
next one needs no more than to ask the archives whether they still have the same signed lists, while it writes. What it
copies out of the cache is hashed as ever. Whatever is not exactly as it was is left to :mod:`airgap.build`.
"""

from __future__ import annotations

import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from airgap.addresses import has_credentials
from airgap.archive import Entry, Head, Pieces, blocks_after
from airgap.bundle_writer import Written, check_room, write_bundle
from airgap.cache import Cache
from airgap.errors import VerificationError
from airgap.hashing import sha256_of_bytes
from airgap.memory import Memory, digest_of
from airgap.network import Network
from airgap.plan import BuildOptions, Choice, plan_environments
from airgap.progress import Progress
from airgap.sources.apt import Answer, AptSource, packages_of
from airgap.sources.files import INSTALLER_NAME, checkout_files, flow_files
from airgap.sources.interface import Download

# Texts that are larger than this are flows' data: too much to keep a second time.
_LARGEST_HEAD = 64 * 1024**2


@dataclass(frozen=True)
class Repeated:
    """A bundle that was written again."""

    choice: Choice
    written: Written
    digest: str
    """SHA-256 of SHA256SUMS."""


def repeat(
    options: BuildOptions,
    choice: Choice,
    network: Network,
    progress: Progress,
    announce: Callable[[Choice], None],
    apt: AptSource,
) -> Repeated | None:
    """Write the bundle that *options* ask for, if it was built before and would be the same; else return None.

    *apt* tells of the archives. *announce* is told the choice of Python before anything is written.
    """
    inputs = Inputs.of(options, choice, network, apt)
    if inputs is None or (answers := inputs.answers()) is None:
        return None
    current = _Later(lambda: inputs.are_current(answers))
    try:
        remembered = inputs.recall(answers)
        if remembered is None or not all(map(_is_there, remembered.packages)):
            return None
        announce(choice)
        size = sum(package.size for package in remembered.packages)
        check_room(options, size, {}, Cache(options.cache))
        blocks = blocks_after(remembered.head, remembered.packages)
        with progress.step("Writing the bundle again: nothing that it is made of has changed"):
            written = write_bundle(options, _confirmed(blocks, current), inputs.installer)
        return Repeated(choice, written, remembered.digest)
    except (VerificationError, _ChangedError):
        return None


def _is_there(package: Entry) -> bool:
    """Return whether the cache has *package*; its content is hashed while it is written."""
    try:
        return isinstance(package.content, bytes) or package.content.stat().st_size == package.size
    except OSError:
        return False


class _ChangedError(Exception):
    """An archive has other lists than the packages were taken from."""


class _Later:
    """What a thread of its own finds out; loading Python's own pools would take longer than the rest of the start."""

    def __init__(self, find_out: Callable[[], bool]) -> None:
        self._answer: bool | BaseException = False
        self._thread = threading.Thread(target=self._run, args=(find_out,), daemon=True)
        self._thread.start()

    def _run(self, find_out: Callable[[], bool]) -> None:
        try:
            self._answer = find_out()
        except BaseException as error:  # of any kind: raised again in the thread that asks
            self._answer = error

    def result(self) -> bool:
        self._thread.join()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def _confirmed(blocks: Iterator[Pieces], current: _Later) -> Iterator[Pieces]:
    """Yield *blocks*; at their end, before the output gets its name, raise _ChangedError unless all is *current*."""
    yield from blocks
    if not current.result():
        raise _ChangedError


@dataclass(frozen=True)
class _Remembered:
    head: Head
    packages: list[Entry]
    digest: str


@dataclass(frozen=True)
class Inputs:
    """What a bundle is made of, but for what archives answer."""

    options: BuildOptions
    choice: Choice
    network: Network
    apt: AptSource
    installer: bytes
    digest: str

    @classmethod
    def of(cls, options: BuildOptions, choice: Choice, network: Network, apt: AptSource) -> Inputs | None:
        """Return the inputs of the build that *options* ask for; None for one that is not to be remembered.

        Those are: what is asked of a site, signatures, packages that channels describe, and what secrets lead to.
        """
        if (
            choice.interpreter != "system"
            or options.base is not None
            or options.dry_run
            or options.sign_key is not None
            or options.extra_conda
            or any(map(has_credentials, network.indexes))
        ):
            return None
        digest, installer = _digest_of_inputs(options, choice, network)
        return cls(options, choice, network, apt, installer, digest)

    def answers(self) -> list[Answer] | None:
        """Return what apt answered for each target earlier; None where that is not known of all."""
        wanted = packages_of(self.options.root, self.options.extra_debs)
        answers = [self.apt.remembered(wanted, target) for target in self.options.targets]
        return None if None in answers else [answer for answer in answers if answer is not None]

    def are_current(self, answers: Sequence[Answer]) -> bool:
        """Return whether the archives have what *answers* rest on."""
        targets = self.options.targets
        return all(self.apt.is_current(answer, target) for answer, target in zip(answers, targets, strict=True))

    def recall(self, answers: Sequence[Answer]) -> _Remembered | None:
        """Return what was built of these inputs and *answers*."""
        found = Memory(self.options.cache, "bundles").recall(self._key(answers))
        try:
            head = Head(b64decode(found["head"]), found["size"], frozenset(found["directories"]))
            if sha256_of_bytes(head.content) != found["sha256"]:
                return None
            cache = Cache(self.options.cache)
            packages = [
                Entry(path, sha256, size, cache.path(sha256) if made is None else b64decode(made), package=True)
                for path, sha256, size, made in found["packages"]
            ]
            return _Remembered(head, packages, found["digest"])
        except (KeyError, TypeError, ValueError):
            return None

    def remember(self, answers: Sequence[Answer], head: Head, entries: Sequence[Entry], digest: str) -> None:
        """Remember what was built of these inputs and *answers*."""
        document: dict[str, Any] = {
            "head": b64encode(head.content).decode(),
            "sha256": sha256_of_bytes(head.content),
            "size": head.size,
            "directories": sorted(head.directories),
            "packages": [
                [entry.path, entry.sha256, entry.size, _made(entry.content)] for entry in entries if entry.package
            ],
            "digest": digest,
        }
        Memory(self.options.cache, "bundles").remember(self._key(answers), document)

    def _key(self, answers: Sequence[Answer]) -> str:
        return digest_of(self.digest, *map(repr, answers))


def _made(content: bytes | Path) -> str | None:
    """Return the content of a package that the builder made, which is in no cache; None for others."""
    return b64encode(content).decode() if isinstance(content, bytes) else None


def remember(
    inputs: Inputs | None, debian_packages: Sequence[Download], head: Head, entries: Sequence[Entry], digest: str
) -> None:
    """Remember the bundle of *entries*, which begins with *head*, if it was really made of *inputs*."""
    if inputs is None or len(head.content) > _LARGEST_HEAD:
        return
    # A file may have been edited, and another build may have asked apt, while this one was at work.
    again = Inputs.of(inputs.options, inputs.choice, inputs.network, inputs.apt)
    answers = inputs.answers()
    if answers is None or again is None or again.digest != inputs.digest:
        return
    if [download for answer in answers for download in answer.downloads] == list(debian_packages):
        inputs.remember(answers, head, entries, digest)


def _digest_of_inputs(options: BuildOptions, choice: Choice, network: Network) -> tuple[str, bytes]:
    """Return a digest of everything on this machine that a bundle is made of, and the installer among it."""
    files = [*checkout_files(options.root), *(file for flow in options.flows for file in flow_files(flow))]
    requirements = options.root / "requirements"
    locks = [plan.lock for plan in plan_environments(options.root, options.flows, choice.interpreter)]
    read = [*locks, requirements / "collections.txt", requirements / "apt.txt", *options.extra_wheels]
    code = Path(__file__).parent
    if not (options.root / "airgap" / "repeat.py").exists():
        read += sorted(code.rglob("*.py"))
    dpkg = which("dpkg-deb")
    digest = digest_of(
        sys.version,
        sys.prefix,
        f"{dpkg} {Path(dpkg).stat().st_mtime_ns if dpkg else ''}",
        choice.reason,
        options.version,
        repr([target.name for target in options.targets]),
        repr([flow.name for flow in options.flows]),
        repr(network.indexes),
        repr(dict(options.channels)),
        *(part for file in files for part in (file.path, str(file.executable), file.content)),
        *(part for path in read for part in (path.name, path.read_bytes())),
    )
    (installer,) = (file.content for file in files if file.path == INSTALLER_NAME)
    return digest, installer

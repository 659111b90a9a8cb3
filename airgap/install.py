"""Install an environment on this machine from its description and the mirror: ``python3 -m airgap.install``.

``<root>/<name>-<digest>/`` is complete when its marker file is there, and never changed afterwards. Packages are
unpacked once into a cache on the same file system and hard-linked from there.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from airgap.activation import write_activation
from airgap.bytecode import compile_command, keep_compiled, link_compiled
from airgap.durable import flush
from airgap.environment import Environment, PackageFile
from airgap.errors import AirgapError, InstallationError
from airgap.files import check_packages, link_points_to, switch_link
from airgap.wheel_check import changed_wheels

MARKER = ".complete"
_DISK_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
_CONDA_ARCHITECTURES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}


@dataclass(frozen=True)
class Installation:
    """Where an environment is, and what was done (or, in check mode, would be)."""

    path: str
    """Directory with ``env/``, ``activate.sh`` and ``run``."""
    python: str
    """The environment's interpreter."""
    changed: bool
    """Whether it was installed or the link was switched."""
    installed: bool
    linked: bool
    digest: str


def install(
    description: Path,
    mirror: Path,
    root: Path,
    cache: Path,
    *,
    link: Path | None = None,
    bytecode: bool = True,
    check: bool = False,
) -> Installation:
    """Install the environment that *description* describes below *root*, and point *link* at it.

    *cache* must be on the file system of *root*. With *bytecode*, Python code is compiled, once for all environments:
    programs start in half the time. With *check*, nothing is changed. Raises VerificationError when a
    file of the mirror is not the one described, and InstallationError when the environment does not fit this machine
    or cannot be installed; then nothing of it is left and the link is what it was.
    """
    environment = Environment.from_file(description)
    # rattler needs absolute paths: they are written into programs' first lines.
    mirror, root, cache = mirror.resolve(), root.resolve(), cache.resolve()
    directory = root / environment.directory_name
    install_needed = not is_complete(directory, environment)
    link_needed = link is not None and not link_points_to(link, directory)
    if install_needed:
        _check_fits(environment)
    if not check and (install_needed or link_needed):
        os.umask(0o022)
        try:
            with _lock(root) as lock:
                install_needed = not is_complete(directory, environment)
                if install_needed:
                    check_packages(environment.files, mirror)
                    _install_into(directory, environment, mirror, cache, lock, bytecode=bytecode)
                if link is not None:
                    link_needed = switch_link(link, directory)
        except OSError as error:
            raise InstallationError(
                _reason(environment, root, f"{error.filename or root}: {error.strerror}")
            ) from error
    return Installation(
        path=str(directory),
        python=str(directory / "env/bin/python"),
        changed=install_needed or link_needed,
        installed=install_needed,
        linked=link_needed,
        digest=environment.digest,
    )


def is_complete(directory: Path, environment: Environment) -> bool:
    """Return whether *directory* holds all of *environment*."""
    try:
        return (directory / MARKER).read_text(encoding="utf-8").strip() == environment.digest
    except OSError:
        return False


def _check_fits(environment: Environment) -> None:
    architecture = _CONDA_ARCHITECTURES.get(environment.platform)
    if architecture != platform.machine():
        raise InstallationError(
            f"The environment {environment.name} is for {environment.platform} and this machine is "
            f"{platform.machine()}: build the bundle for this architecture too (--target)."
        )
    python = Path(f"/usr/bin/python{environment.python}")
    if environment.interpreter == "system" and not python.exists():
        raise InstallationError(
            f"The environment {environment.name} needs this machine's own Python {environment.python} ({python}), "
            f"which is not there: build the bundle for this machine's release (--target), it was built for "
            f"{environment.target}."
        )


@contextmanager
def _lock(root: Path) -> Iterator[IO[str]]:
    """Wait until no other process installs below *root*.

    The lock file is handed to the installers' processes: when this one is killed, they hold the lock to their end.
    """
    _own_directory(root)
    with (root / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _own_directory(path: Path) -> None:
    """Make the directory *path*, writable for its owner only; raise when it belongs to somebody else."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise InstallationError(f"{path} belongs to another user, who could change what is installed: give it to root.")
    if status.st_mode & 0o022:
        path.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


def _install_into(
    directory: Path, environment: Environment, mirror: Path, cache: Path, lock: IO[str], *, bytecode: bool
) -> None:
    if directory.exists():
        shutil.rmtree(directory)  # left by a run that was interrupted
    _own_directory(cache)
    cache.chmod(0o700)  # uv leaves lock files in it that anybody could write
    if cache.stat().st_dev != directory.parent.stat().st_dev:
        raise InstallationError(
            f"The cache {cache} and {directory.parent} are on different file systems, so that nothing can be shared "
            "between environments: put both on one."
        )
    cached_before = set(cache.glob("conda/*"))
    prefix = directory / "env"
    try:
        prefix.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=directory) as work:
            _install_conda(environment, mirror, prefix, cache / "conda", Path(work), lock)
            _install_wheels(environment, mirror, prefix, cache / "uv", Path(work), lock)
        if bytecode:
            _compile(environment, prefix, cache / "bytecode", lock)
        write_activation(directory, environment.name)
        _make_readable(directory)
        # The marker is trusted: after a power failure, files beside it must not be empty. Once for all of them.
        flush(directory)
        marker = directory / MARKER
        marker.write_text(f"{environment.digest}\n", encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, (OSError, InstallationError)) and any(text in str(error) for text in _DISK_FULL):
            # Give back what this attempt took, so that the machine is not left with a full disk.
            for entry in set(cache.glob("conda/*")) - cached_before:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            _clean_wheels(environment.wheels, cache / "uv")
            shutil.rmtree(cache / "bytecode", ignore_errors=True)
        raise


def _install_conda(
    environment: Environment, mirror: Path, prefix: Path, cache: Path, work: Path, lock: IO[str]
) -> None:
    if not environment.conda:
        return
    repodata: dict[str, dict[str, Any]] = {}
    for package in environment.conda:
        _, subdir, file_name = package.path.split("/")
        kind = "packages" if file_name.endswith(".tar.bz2") else "packages.conda"
        index = repodata.setdefault(subdir, {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}})
        index[kind][file_name] = package.record
    job: dict[str, Any] = {
        "channel": str(mirror / "conda"),
        "repodata": [],
        "prefix": str(prefix),
        "platform": environment.platform,
        "cache": str(cache),
    }
    for subdir, index in repodata.items():
        path = work / f"{subdir}.json"
        path.write_text(json.dumps(index), encoding="utf-8")
        job["repodata"].append(str(path))
    job_file, result_file = work / "job.json", work / "result.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    finished = _run(
        [sys.executable, "-m", "airgap._conda_install", str(job_file), str(result_file)],
        lock,
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
    )
    # The result counts, not the exit status: see airgap._conda_install.
    try:
        error = json.loads(result_file.read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError):
        error = finished.stderr.strip() or f"the installer ended with status {finished.returncode}"
    if error:
        raise InstallationError(_reason(environment, prefix.parent.parent, error))


def _install_wheels(
    environment: Environment, mirror: Path, prefix: Path, cache: Path, work: Path, lock: IO[str]
) -> None:
    if not environment.wheels:
        return
    requirements = work / "requirements.txt"
    requirements.write_text(
        "".join(
            f"--find-links {_wheel_directory(wheel, mirror, cache)}\n"
            f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
            for wheel in environment.wheels
        ),
        encoding="utf-8",
    )
    command = [
        str(find_uv()),
        "pip",
        "install",
        "--quiet",
        "--no-config",  # the machine's own configuration may name an index
        "--offline",
        "--no-index",
        "--no-deps",
        "--require-hashes",
        f"--requirements={requirements}",
        f"--python={prefix / 'bin/python'}",
        f"--cache-dir={cache}",
        "--link-mode=hardlink",
    ]
    library = prefix / f"lib/python{environment.python}/site-packages"
    changed: list[PackageFile] = []
    for extra in ([], ["--reinstall"]):
        finished = _run([*command, *extra], lock)
        if finished.returncode != 0:
            raise InstallationError(_reason(environment, prefix.parent.parent, finished.stderr))
        changed = changed_wheels(environment.wheels, mirror, library)
        if not changed:
            return
        _clean_wheels(changed, cache)
    names = ", ".join(wheel.name for wheel in changed)
    raise InstallationError(_reason(environment, prefix.parent.parent, f"{names} differ from their wheels"))


def _compile(environment: Environment, prefix: Path, store: Path, lock: IO[str]) -> None:
    """Compile the environment's Python code, as far as no other environment has it already."""
    tag = f"cpython-{environment.python.replace('.', '')}"
    missing = link_compiled(prefix, store, tag)
    if missing:
        finished = _run(
            compile_command(prefix / "bin/python"), lock, text=json.dumps([str(source) for source in missing])
        )
        if finished.returncode != 0:
            raise InstallationError(_reason(environment, prefix.parent.parent, finished.stderr))
        keep_compiled(missing, store, tag)


def _wheel_directory(wheel: PackageFile, mirror: Path, cache: Path) -> Path:
    """Return a directory that has nothing but a link to *wheel*, the same for every environment.

    In the mirror, uv would take the wheel with the best tags, and then refuse it if it is another than the one locked.
    And its cache goes by paths, so that directories of each environment's own would share nothing.
    """
    directory = cache.parent / "wheels" / wheel.sha256
    directory.mkdir(parents=True, exist_ok=True)
    switch_link(directory / Path(wheel.path).name, mirror / wheel.path)
    return directory


def _clean_wheels(wheels: Iterable[PackageFile], cache: Path) -> None:
    """Remove the unpacked files of *wheels* from uv's cache; environments keep theirs."""
    names = [wheel.name for wheel in wheels]
    if names and cache.is_dir():
        subprocess.run(
            [str(find_uv()), "cache", "clean", "--quiet", "--no-config", f"--cache-dir={cache}", *names],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def find_uv() -> Path:
    """Return uv's program: the toolkit's, or that of this Python's own environment.

    Raises InstallationError when there is none.
    """
    candidates = [Path(entry) / "bin/uv" for entry in sys.path if entry] + [Path(sys.prefix) / "bin/uv"]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise InstallationError("The toolkit is not there: run with PYTHONPATH=/opt/pag/toolkit/current.")


def _run(command: list[str], lock: IO[str], text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an installer with nothing of the caller's environment, so that it acts the same for everybody."""
    return subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **variables},
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=[lock.fileno()],
    )


def _make_readable(directory: Path) -> None:
    """Give everybody the right to read below *directory*, and nobody but the owner to write.

    Archives carry modes of the machine that they were made on.
    """
    directory.chmod(0o755)
    for parent, _, _ in os.walk(directory):
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                wanted = (mode | 0o644 | (0o111 if entry.is_dir() or mode & 0o111 else 0)) & 0o755
                if mode != wanted:
                    Path(entry.path).chmod(wanted)


def _reason(environment: Environment, root: Path, text: str) -> str:
    """Return one sentence for what an installer wrote, as it is or recognised."""
    if any(phrase in text for phrase in _DISK_FULL):
        return (
            f"There is no space left on the disk of {root} for the environment {environment.name} "
            "(No space left on device): free some, nothing was changed."
        )
    words = " ".join(text.split())
    return (
        f"The environment {environment.name} could not be installed below {root}, nothing was changed: {words[-1500:]}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print one line of JSON, an :class:`Installation`."""
    parser = argparse.ArgumentParser(prog="python3 -m airgap.install", description="Install an environment.")
    parser.add_argument("--description", type=Path, required=True, help="environments/<name>.<target>.json")
    parser.add_argument("--mirror", type=Path, required=True, help="directory of the mirror")
    parser.add_argument("--root", type=Path, required=True, help="directory of the environments")
    parser.add_argument(
        "--cache", type=Path, required=True, help="directory of unpacked packages, on the same file system"
    )
    parser.add_argument("--link", type=Path, help="symbolic link to point at the environment")
    parser.add_argument("--no-bytecode", dest="bytecode", action="store_false", help="do not compile Python code")
    parser.add_argument("--check", action="store_true", help="change nothing, say what would be done")
    options = parser.parse_args(arguments)
    # Ended by a signal, clean up as after an error.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        installation = install(
            options.description,
            options.mirror,
            options.root,
            options.cache,
            link=options.link,
            bytecode=options.bytecode,
            check=options.check,
        )
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        return 1
    print(json.dumps(asdict(installation)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

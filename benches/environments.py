#!/usr/bin/env python3
"""How long environments take to install, how much disk they need, and how large a bundle of them is.

    python3 benches/environments.py [--rounds N] [--python system|conda] [--channel NAME=URL] [--directory DIR]

Everything is measured in this one run, on this machine, from files on its disk: the way a node installs them, against
uv and pip making the same from scratch, and a bundle against one full archive for each environment. Runs in the
builder's or the tests' environment; what the builder's cache lacks is fetched first, and not measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "benches")]

from measuring import allocated  # noqa: E402

from airgap.cache import Cache, default_cache  # noqa: E402
from airgap.environment import Environment  # noqa: E402
from airgap.fetch import Fetcher  # noqa: E402
from airgap.network import pip_network  # noqa: E402
from airgap.pack_writer import write_pack  # noqa: E402
from airgap.plan import BASE, TOOLKIT, BuildOptions, find_flows, plan_environments  # noqa: E402
from airgap.progress import LineProgress  # noqa: E402
from airgap.resolve import Sources, resolve_environment  # noqa: E402
from airgap.targets import host_target  # noqa: E402
from airgap.toolkit import unpack_toolkit  # noqa: E402

_MIRROR = "mirror/"
_SHARING = "demo2"
"""A flow whose environment is the base environment's packages and one more."""


@dataclass(frozen=True)
class Measurement:
    """The median of some rounds."""

    name: str
    seconds: float
    disk: int
    """Bytes that were allocated on the disk."""


@dataclass
class Bench:
    """What is installed, and where."""

    directory: Path
    environments: dict[str, Environment]
    rounds: int

    @property
    def mirror(self) -> Path:
        """The packages, as a bundle brings them."""
        return self.directory / "mirror"

    @property
    def node(self) -> Path:
        """What stands for a node's /opt/prefect."""
        return self.directory / "node"

    def install(self, name: str) -> None:
        """Install an environment as a node does: its own Python, and the toolkit."""
        command = [_system_python(), "-m", "airgap.install"]
        command += [f"--description={self.directory / name}.json", f"--mirror={self.mirror}"]
        command += [f"--root={self.node / 'envs'}", f"--cache={self.node / 'cache'}"]
        _run(command, PYTHONPATH=str(self.directory / "toolkit/current"))

    def measure(self, name: str, prepare: Callable[[], None], work: Callable[[], None]) -> Measurement:
        """Return how long *work* takes and how much disk it allocates, after *prepare* each time."""
        seconds, disk = [], 0
        for _ in range(self.rounds):
            prepare()
            before = allocated([self.node])
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
            disk = allocated([self.node]) - before
        print(f"  {name}: {statistics.median(seconds):.2f} s", file=sys.stderr, flush=True)
        return Measurement(name, statistics.median(seconds), disk)

    def remove_environment(self, name: str) -> None:
        """Remove an installed environment; the cache of unpacked packages stays."""
        _remove(self.node / "envs" / self.environments[name].directory_name)

    def start_anew(self) -> None:
        """Leave nothing on the node."""
        _remove(self.node)
        self.node.mkdir()


def measure_installing(bench: Bench) -> list[Measurement]:
    """Return the times and sizes of our own installations."""

    def forget_second() -> None:
        bench.install(BASE)
        bench.remove_environment(_SHARING)
        # What it alone has unpacked goes too, so that it is new to the node.
        only = {package.name for package in bench.environments[_SHARING].files}
        only -= {package.name for package in bench.environments[BASE].files}
        _forget(bench, only)

    return [
        bench.measure("pag: base, nothing cached", bench.start_anew, lambda: bench.install(BASE)),
        bench.measure(
            "pag: base, packages cached", lambda: bench.remove_environment(BASE), lambda: bench.install(BASE)
        ),
        bench.measure(f"pag: second ({_SHARING}) beside base", forget_second, lambda: bench.install(_SHARING)),
    ]


def measure_others(bench: Bench) -> list[Measurement]:
    """Return the times and sizes of uv and pip making the second environment from scratch, from the same wheels."""
    environment = bench.environments[_SHARING]
    requirements = bench.directory / "requirements.txt"
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in environment.wheels]
    requirements.write_text("".join(lines), encoding="utf-8")
    options = ["--no-index", "--no-deps", "--require-hashes", f"--find-links={bench.mirror / 'pypi'}"]
    options.append(f"--requirement={requirements}")
    prefix = bench.node / "other"
    uv = str(bench.directory / "toolkit/current/bin/uv")

    def with_uv() -> None:
        _run([uv, "venv", "--quiet", "--no-config", f"--python={_system_python()}", str(prefix)])
        install = [uv, "pip", "install", "--quiet", "--no-config", "--offline", "--no-cache"]
        _run([*install, f"--python={prefix}/bin/python", *options])

    def with_pip() -> None:
        _run([_system_python(), "-m", "venv", str(prefix)])
        _run([f"{prefix}/bin/python", "-m", "pip", "--quiet", "--isolated", "install", "--no-cache-dir", *options])

    return [
        bench.measure("uv from scratch", bench.start_anew, with_uv),
        bench.measure("pip from scratch", bench.start_anew, with_pip),
    ]


def measure_bytes(bench: Bench) -> tuple[int, int]:
    """Return the bytes of all environments' packages once, and of one full archive for each environment."""
    once = {file.path: file.size for environment in bench.environments.values() for file in environment.files}
    archives = 0
    for name, environment in bench.environments.items():
        pack = bench.directory / f"{name}.tar"
        write_pack(environment, lambda path: bench.mirror / path, pack)
        archives += pack.stat().st_size
        pack.unlink()
    return sum(once.values()), archives


def prepare(options: argparse.Namespace, directory: Path) -> Bench:
    """Fetch what the environments are made of and lay it out as on a node."""
    target = host_target(platform.machine())
    build = BuildOptions(
        root=_ROOT,
        cache=options.cache,
        output=directory / "none",
        targets=(target,),
        python=options.python,
        channels={name: [url] for name, _, url in (pair.partition("=") for pair in options.channel)},
    )
    network, progress = pip_network(), LineProgress(sys.stderr)
    sources = Sources.of(build, network)
    environments: dict[str, Environment] = {}
    cache = Cache(options.cache)
    for plan in plan_environments(_ROOT, find_flows(_ROOT), options.python):
        resolved = resolve_environment(plan, target, sources)
        fetched = dict(Fetcher(cache, network, progress).fetch(resolved.downloads))
        fetched |= {file.path: cache.store(file.content) for file, _ in resolved.generated}
        for path, source in fetched.items():
            destination = directory / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            if not destination.exists():
                shutil.copyfile(source, destination)
        environment = resolved.describe({path: file.stat().st_size for path, file in fetched.items()})
        if plan.name == TOOLKIT:
            unpack_toolkit(environment, directory / "mirror", directory / "toolkit", _ROOT / "airgap")
        else:
            environments[plan.name] = environment
            (directory / f"{plan.name}.json").write_text(environment.to_json(), encoding="utf-8")
    return Bench(directory, environments, options.rounds)


def report(bench: Bench, measurements: Sequence[Measurement], sizes: tuple[int, int]) -> Iterator[str]:
    """Yield the lines of the result."""
    ours = {measurement.name: measurement for measurement in measurements}
    second = ours[f"pag: second ({_SHARING}) beside base"]
    packages = len(bench.environments[_SHARING].files)
    load = os.getloadavg()[1]
    yield f"{platform.platform()}, {os.cpu_count()} processors (load {load:.1f}), median of {bench.rounds} rounds"
    yield f"{packages} packages; seconds are of the machine as it was, the load of others included"
    yield ""
    yield f"{'':38} {'seconds':>9} {'ratio':>8} {'disk, MB':>10} {'ratio':>8}"
    for measurement in measurements:
        yield (
            f"{measurement.name:38} {measurement.seconds:9.2f} {measurement.seconds / second.seconds:7.1f}x"
            f" {measurement.disk / 1e6:10.1f} {measurement.disk / second.disk:7.1f}x"
        )
    yield "(ratio: to the second environment; pip compiles bytecode, the others do not)"
    yield ""
    once, archives = sizes
    yield f"{'bytes of ' + ', '.join(bench.environments)}"
    yield f"{'  in one bundle, each package once':38} {once / 1e6:9.1f} MB"
    yield f"{'  one full archive each':38} {archives / 1e6:9.1f} MB {archives / once:7.1f}x"


def _forget(bench: Bench, names: Iterable[str]) -> None:
    cache = bench.node / "cache"
    uv = str(bench.directory / "toolkit/current/bin/uv")
    for name in names:
        if (cache / "uv").is_dir():
            _run([uv, "cache", "clean", "--quiet", "--no-config", f"--cache-dir={cache / 'uv'}", name])
        for entry in (cache / "conda").glob(f"{name}-*"):
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _system_python() -> str:
    return f"/usr/bin/python{host_target(platform.machine()).release.python}"


def _run(command: Sequence[str], **variables: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **variables}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command[:6])} ... failed: {finished.stderr}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure installing environments, and their bytes.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", choices=("system", "conda"), default="system")
    parser.add_argument("--channel", action="append", default=[], metavar="NAME=URL", help="as for build-bundle.py")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the builder's cache")
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pag-bench-", dir=options.directory) as directory:
        bench = prepare(options, Path(directory))
        measurements = measure_installing(bench)
        if options.python == "system":  # uv and pip cannot make the others
            measurements += measure_others(bench)
        print("\n".join(report(bench, measurements, measure_bytes(bench))))


if __name__ == "__main__":
    main()

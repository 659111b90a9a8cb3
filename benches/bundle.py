#!/usr/bin/env python3
"""What bundles weigh, and how long building and verifying them takes, against what anybody could do without pag.

    python3 benches/bundle.py [--rounds N] [--payload MB] [--only NAME ...] [--directory DIR]

Both sides of each line are measured in this one run, on this machine, and the line says the ratio and the bound that
it is to keep. Runs in the builder's or the tests' environment, and needs curl; the cold builds fetch from the package
index and the distribution's archive that this host is configured for. ``--directory`` wants some five times the
payload's room, on a file system with hard links.

``--only gpu`` is for those who mean it: a flow with PyTorch and its CUDA libraries, some gigabytes that each round
fetches twice, with room for four times of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "benches")]

from bundle_flows import Flows  # noqa: E402
from measuring import PeakOf, allocated, memory_of, run, seconds  # noqa: E402
from slow_line import slow_line  # noqa: E402

from airgap.cache import Cache, default_cache  # noqa: E402
from airgap.environment import Environment  # noqa: E402
from airgap.fetch import Fetcher  # noqa: E402
from airgap.have import Have, HavePackage  # noqa: E402
from airgap.manifest import BUNDLE_DIRECTORY, MANIFEST_NAME, Manifest  # noqa: E402
from airgap.network import pip_network  # noqa: E402
from airgap.plan import BuildOptions, find_flows, plan_environments  # noqa: E402
from airgap.progress import Progress  # noqa: E402
from airgap.resolve import Sources, resolve  # noqa: E402
from airgap.sources.apt_archives import find_archives, host_entries  # noqa: E402
from airgap.targets import host_target  # noqa: E402
from airgap.toolkit import unpack_toolkit  # noqa: E402

_KIB, _MB = 1024, 1_000_000
_SHARING_FLOWS = 20
# Bytes a second of the line that cold builds are measured on: 100 Mbit/s.
_LINE = 12_500_000
# What a builder may take, however large the bundle is.
_MEMORY = 400 * _MB


@dataclass(frozen=True)
class Line:
    """One line of the result."""

    what: str
    ours: str
    theirs: str
    ratio: str
    bound: str
    kept: bool


@dataclass
class Bench:
    """Where the work is done, and what was found."""

    directory: Path
    rounds: int
    payload: int
    """Bytes of the large flow's wheels."""
    cache: Path
    lines: list[Line] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Return a path below the working directory."""
        return self.directory / name

    def build(self, output: Path, flows: Iterable[Path], *arguments: str | Path, **variables: str) -> None:
        """Build a bundle as an operator does, of the checkout with exactly *flows*."""
        command = ["--python=system", f"--output={output}", f"--cache={self.cache}", "--quiet", *arguments]
        run(_builder(*command, *(f"--flow={flow}" for flow in flows)), None, **variables)

    def ratio(self, what: str, ours: float, theirs: float, bound: float, show: Callable[[float], str]) -> None:
        """Note that *ours* is to be at most *bound* times *theirs*."""
        self._note(what, show(ours), show(theirs), f"{ours / theirs:.2f}", f"{bound:.2f}", ours <= bound * theirs)

    def at_most(self, what: str, ours: float, bound: float, show: Callable[[float], str]) -> None:
        """Note that *ours* is to be at most *bound*."""
        self._note(what, show(ours), "", "", show(bound), ours <= bound)

    def _note(self, what: str, ours: str, theirs: str, ratio: str, bound: str, kept: bool) -> None:
        self.lines.append(Line(what, ours, theirs, ratio, bound, kept))
        print(f"  {what}: {ours} {'against ' + theirs if theirs else ''}", file=sys.stderr, flush=True)


def bench_sharing(bench: Bench) -> None:
    """Measure the packages of base and three flows in a bundle, against one full pack for each environment."""
    flows = find_flows(_ROOT)
    bundle = bench.path("sharing.tar.gz")
    bench.build(bundle, flows)
    with unpacked(bench, bundle) as directory:
        used = _packages_of(directory, ["prefect", *(flow.name for flow in flows)])
    once = sum(file.size for file in read_manifest(bundle).files if file.path in used)
    base = bench.path("base")
    base.mkdir()
    (base / "main.py").write_text("from prefect import flow\n\n@flow\ndef main():\n    pass\n", encoding="utf-8")
    shutil.copy(_ROOT / "requirements/prefect.txt", base / "requirements.txt")
    packs = 0
    for flow in (base, *flows):
        pack = bench.path("pack.tar")
        run(_builder("pack-flow", flow, "--python=system", f"--output={pack}", f"--cache={bench.cache}", "--quiet"))
        packs += pack.stat().st_size
    bundle.unlink()
    bench.ratio(f"packages of base + {len(flows)} flows, against a full pack each", once, packs, 0.45, megabytes)


def bench_delta(bench: Bench) -> None:
    """Measure what a delta carries beside the one wheel that changed."""
    flows = Flows(bench.path("delta-flows"), _ROOT / "requirements/prefect.txt")
    flow = flows.add("steps", {"bench_steps": 100 * _KIB})
    full, delta, have = bench.path("full.tar.gz"), bench.path("delta.tar.gz"), bench.path("have.json")
    bench.build(full, [flow], **flows.variables)
    have.write_text(_have(read_manifest(full)).to_json(), encoding="utf-8")
    flows.add("steps", {"bench_steps": 100 * _KIB}, version="2.0")
    bench.build(delta, [flow], f"--since={have}", **flows.variables)
    carried = [file for file in read_manifest(delta).files if file.kind in ("conda", "wheel", "deb")]
    if [file.version for file in carried] != ["2.0"]:
        sys.exit(f"The delta carries {[file.path for file in carried]} instead of the one wheel that changed.")
    overhead = delta.stat().st_size - sum(file.size for file in carried)
    bench.at_most("delta after one wheel changed, beside the wheel", overhead, 256 * _KIB, kibibytes)
    for path in (full, delta):
        path.unlink()


def bench_flows(bench: Bench) -> None:
    """Measure what each further flow costs that differs in one small wheel: bytes carried, and disk on a node."""
    flows = Flows(bench.path("sharing-flows"), _ROOT / "requirements/prefect.txt")
    made = [flows.add(f"flow{number:02}", {f"bench_{number:02}": 64 * _KIB}) for number in range(_SHARING_FLOWS)]
    one, all_of_them = bench.path("one.tar.gz"), bench.path("all.tar.gz")
    bench.build(one, made[:1], **flows.variables)
    bench.build(all_of_them, made, **flows.variables)
    carried = (all_of_them.stat().st_size - one.stat().st_size) / (_SHARING_FLOWS - 1)
    bench.at_most("each further flow with one wheel of its own, carried", carried, 2 * _KIB * _KIB, kibibytes)
    with unpacked(bench, all_of_them) as bundle:
        node = bench.path("node")
        sizes = [allocated([node]) for _ in _install(bundle, node, [flow.name for flow in made])]
    disk = (sizes[-1] - sizes[0]) / (_SHARING_FLOWS - 1)
    bench.at_most("each further flow with one wheel of its own, disk on a node", disk, 15 * _MB, megabytes)
    for path in (one, all_of_them):
        path.unlink()
    shutil.rmtree(node)


def bench_cold(bench: Bench) -> None:
    """Measure a build with nothing in the cache, against curl fetching the same files and sha256sum hashing them."""
    wanted = wanted_by(bench, find_flows(_ROOT))
    for line in (_LINE, None):
        with slow_line(line) if line else nullcontext() as proxy:
            _cold_rounds(bench, f"line of {megabytes(line)}/s" if line else "line as it is", wanted, proxy)


def _cold_rounds(bench: Bench, line: str, wanted: Wanted, proxy: str | None = None) -> None:
    rounds = [_cold_round(bench, wanted, proxy) for _ in range(bench.rounds)]
    ours, files, lists, memory = map(median, zip(*rounds, strict=True))
    what = f"cold build of {megabytes(wanted.size)}, {line}, against curl and sha256sum"
    bench.ratio(what, ours, files, 1.3, as_seconds)
    bench.ratio(f"{what}, which fetch the lists too", ours, lists + files, 1.3, as_seconds)
    bench.at_most(f"most memory of a cold build of {megabytes(wanted.size)}", memory, _MEMORY, megabytes)


def _cold_round(bench: Bench, wanted: Wanted, proxy: str | None) -> tuple[float, float, float, float]:
    """Return the seconds of a build, of fetching its files, and of fetching its lists; and the build's memory."""
    cache, output = bench.path("cold-cache"), bench.path("cold.tar.gz")
    options = [f"--output={output}", f"--cache={cache}", "--python=system", "--quiet"]
    options += [f"--flow={flow}" for flow in wanted.flows] + ([f"--proxy={proxy}"] if proxy else [])
    # The builder's own environment is made once for each cache, and is no part of a build.
    run(_builder("--help", f"--cache={cache}"))
    used = []
    ours = seconds(lambda: used.append(memory_of(_builder(*options))))
    shutil.rmtree(cache)
    output.unlink()
    files = seconds(partial(_fetch_with_curl, bench, wanted.files, proxy))
    return ours, files, seconds(partial(_fetch_lists_with_curl, bench, wanted, proxy)), used[0]


def bench_gpu(bench: Bench) -> None:
    """Measure a bundle with PyTorch and its CUDA libraries, cold on the line as it is, and warm."""
    flows = [_ROOT / "benches" / "gpu"]
    wanted = wanted_by(bench, flows)
    _cold_rounds(bench, "line as it is", wanted)
    output, copy = bench.path("gpu.tar.gz"), bench.path("copy")
    bench.build(output, flows)
    with unpacked(bench, output) as bundle:
        files = [path for path in bundle.rglob("*") if path.is_file()]
        works = partial(bench.build, output, flows), partial(_write_and_hash, files, copy)
        rounds = [[seconds(work) for work in works] for _ in range(bench.rounds)]
    build, write = map(median, zip(*rounds, strict=True))
    size = megabytes(output.stat().st_size)
    bench.ratio(f"warm build of {size}, against writing and hashing", build, write, 1.5, as_seconds)
    output.unlink()
    copy.unlink()


def bench_warm(bench: Bench) -> None:
    """Measure a build with all in the cache, against writing and hashing the same bytes; and verifying."""
    flows = Flows(bench.path("large-flows"), _ROOT / "requirements/prefect.txt")
    count = max(1, bench.payload // (200 * _MB))
    large = flows.add("large", {f"bench_large_{number}": bench.payload // count for number in range(count)})
    for chosen in (find_flows(_ROOT), [large]):
        output, copy = bench.path("warm.tar.gz"), bench.path("copy")
        bench.build(output, chosen, **flows.variables)
        size = megabytes(output.stat().st_size)
        with unpacked(bench, output) as bundle:
            files = [path for path in bundle.rglob("*") if path.is_file()]
            works: Sequence[Callable[[], object]] = (
                partial(bench.build, output, chosen, **flows.variables),
                partial(_write_and_hash, files, copy),
                partial(run, [_system_python(), "-B", "-m", "airgap.verify", bundle], cwd=bundle),
                partial(run, _builder("verify", output)),
                partial(run, ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle),
            )
            rounds = [[seconds(work) for work in works] for _ in range(bench.rounds)]
        build, write, directory, archive, sums = map(median, zip(*rounds, strict=True))
        bench.ratio(f"warm build of {size}, against writing and hashing", build, write, 1.5, as_seconds)
        bench.ratio(f"verifying {size}, unpacked, against sha256sum", directory, sums, 1.1, as_seconds)
        bench.ratio(f"verifying {size}, the archive, against sha256sum", archive, sums, 1.1, as_seconds)
        output.unlink()
        copy.unlink()


def bench_space(bench: Bench) -> None:
    """Measure the most disk that building, unpacking and installing take at any moment, against the bundle's size."""
    flows = Flows(bench.path("space-flows"), _ROOT / "requirements/prefect.txt")
    large = flows.add("large", {"bench_space": bench.payload // 4})
    place = bench.path("space")
    for options in ((), ("--split-size=100M",)):
        place.mkdir()
        bench.build(bench.path("once.tar.gz"), [large], **flows.variables)  # fills the cache
        size = bench.path("once.tar.gz").stat().st_size
        with PeakOf([place, bench.cache]) as peak:
            bench.build(place / "bundle.tar.gz", [large], *options, **flows.variables)
        what = f"disk of building{' volumes' if options else ''}, beside the cache"
        bench.ratio(what, peak.bytes, size, 1.1, megabytes)
        bench.path("once.tar.gz").unlink()
        if not options:
            (place / "bundle.tar.gz").replace(bench.path("bundle.tar.gz"))
        shutil.rmtree(place)
    place.mkdir()
    site = place / "site"
    with PeakOf([place]) as peak, unpacked(bench, bench.path("bundle.tar.gz"), place) as bundle:
        run([_system_python(), "-B", "-m", "airgap.controller", "populate", bundle, site], cwd=bundle)
    bench.ratio("disk of unpacking and merging into the mirror", peak.bytes, size, 1.2, megabytes)
    shutil.rmtree(site)
    bench.path("bundle.tar.gz").unlink()


BENCHES: dict[str, Callable[[Bench], None]] = {
    "sharing": bench_sharing,
    "delta": bench_delta,
    "flows": bench_flows,
    "cold": bench_cold,
    "warm": bench_warm,
    "space": bench_space,
}
ON_REQUEST: dict[str, Callable[[Bench], None]] = {"gpu": bench_gpu}
"""What fetches too much to be run without being asked for."""


def megabytes(number: float) -> str:
    """Return *number* bytes in MB."""
    return f"{number / _MB:.1f} MB"


def kibibytes(number: float) -> str:
    """Return *number* bytes in KiB."""
    return f"{number / _KIB:.1f} KiB"


def as_seconds(number: float) -> str:
    """Return *number* seconds."""
    return f"{number:.2f} s"


def read_manifest(archive: Path) -> Manifest:
    """Return the manifest of the bundle in *archive*."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"{BUNDLE_DIRECTORY}/{MANIFEST_NAME}")
        if member is None:
            sys.exit(f"{archive} has no manifest.")
        return Manifest.from_json(member.read().decode(), str(archive))


@contextmanager
def unpacked(bench: Bench, archive: Path, place: Path | None = None) -> Iterator[Path]:
    """Unpack *archive* as an operator does, and remove it at the end."""
    place = place or bench.path("unpacked")
    place.mkdir(exist_ok=True)
    run(["tar", "-xf", archive], cwd=place)
    try:
        yield place / BUNDLE_DIRECTORY
    finally:
        shutil.rmtree(place / BUNDLE_DIRECTORY)


def report(bench: Bench) -> Iterator[str]:
    """Yield the lines of the result."""
    system = f"{platform.platform()}, {os.cpu_count()} processors"
    yield f"{system} (load {os.getloadavg()[1]:.1f}), median of {bench.rounds} rounds"
    yield ""
    yield f"{'':66} {'pag':>10} {'other':>10} {'ratio':>6} {'bound':>10}"
    for line in bench.lines:
        missed = "" if line.kept else "  MISSED"
        yield f"{line.what:66} {line.ours:>10} {line.theirs:>10} {line.ratio:>6} {line.bound:>10}{missed}"


def _have(manifest: Manifest) -> Have:
    """Return what a site has that installed just the bundle of *manifest*."""
    packages = [file for file in manifest.files if file.kind in ("conda", "wheel", "deb")]
    return Have(
        created_by=manifest.created_by,
        prefect_version=None,
        targets=tuple(target.name for target in manifest.targets),
        packages=tuple(HavePackage(file.path, file.sha256, file.size, file.licence) for file in packages),
        contents=frozenset(file.sha256 for file in manifest.files if file not in packages),
    )


def _packages_of(bundle: Path, names: Iterable[str]) -> set[str]:
    """Return the paths, in the unpacked *bundle*, of the packages of the environments *names*."""
    environments = [
        Environment.from_file(path) for name in names for path in (bundle / "environments").glob(f"{name}.*.json")
    ]
    return {f"mirror/{package.path}" for environment in environments for package in environment.files}


def _install(bundle: Path, node: Path, names: Iterable[str]) -> Iterator[Path]:
    """Install the environments *names* of the unpacked *bundle* below *node*, as nodes do; yield after each."""
    target = host_target(platform.machine()).name
    toolkit = Environment.from_file(bundle / f"environments/toolkit.{target}.json")
    tools = node.with_name("toolkit")
    unpack_toolkit(toolkit, bundle / "mirror", tools, bundle / "airgap")
    for name in names:
        command = [_system_python(), "-m", "airgap.install", f"--mirror={bundle / 'mirror'}"]
        command += [f"--description={bundle}/environments/{name}.{target}.json"]
        command += [f"--root={node / 'envs'}", f"--cache={node / 'cache'}"]
        run(command, PYTHONPATH=str(tools / "current"))
        yield node


@dataclass(frozen=True)
class Wanted:
    """What a build fetches."""

    flows: Sequence[Path]
    files: Mapping[str, str]
    """SHA-256 by address."""
    size: int
    """Bytes of all files."""
    lists: Sequence[str]
    """Addresses of the signed lists of archives, and of the lists of packages that they name."""
    pages: Sequence[str]
    """Addresses of the index's pages."""


def wanted_by(bench: Bench, flows: Sequence[Path]) -> Wanted:
    """Return what a build of this checkout with *flows* fetches."""
    target = host_target(platform.machine())
    options = BuildOptions(
        root=_ROOT,
        cache=bench.cache,
        output=bench.path("none"),
        targets=(target,),
        python="system",
        flows=tuple(flows),
    )
    network = pip_network()
    plans = plan_environments(_ROOT, options.flows, "system")
    contents = resolve(options, plans, Sources.of(options, network), Progress())
    sizes = Fetcher(Cache(bench.cache), network).sizes(contents.downloads)
    names = sorted({download.name for download in contents.downloads if download.kind == "wheel"})
    (archive,) = find_archives(target, {}, host_entries())
    suites = [f"{uri}/dists/{suite}" for uri, suite in archive.suites]
    return Wanted(
        flows,
        {download.url: download.sha256 for download in contents.downloads},
        sum(sizes.values()),
        [
            *(f"{suite}/InRelease" for suite in suites),
            *(f"{suite}/main/binary-{target.debian_architecture}/Packages.xz" for suite in suites),
        ],
        [f"{network.indexes[0].rstrip('/')}/{name}/" for name in names],
    )


def _fetch_with_curl(bench: Bench, files: Mapping[str, str], proxy: str | None) -> None:
    directory = bench.path("curl")
    directory.mkdir()
    sums = directory / "sums"
    sums.write_text("".join(f"{sha256}  {number}\n" for number, sha256 in enumerate(files.values())))
    _curl(files, directory, proxy)
    run(["sha256sum", "--check", "--quiet", sums], cwd=directory)
    shutil.rmtree(directory)


def _fetch_lists_with_curl(bench: Bench, wanted: Wanted, proxy: str | None) -> None:
    directory = bench.path("curl")
    directory.mkdir()
    _curl(wanted.lists, directory, proxy)
    _curl(wanted.pages, directory, proxy, "--compressed", "--header", "Accept: application/vnd.pypi.simple.v1+json")
    shutil.rmtree(directory)


def _curl(addresses: Iterable[str], directory: Path, proxy: str | None, *options: str) -> None:
    """Fetch *addresses* into *directory*, with numbers for names."""
    configuration = directory / "configuration"
    configuration.write_text(
        "".join(f'url = "{url}"\noutput = "{number}"\n' for number, url in enumerate(addresses)), encoding="utf-8"
    )
    fetch = ["curl", "--parallel", "--parallel-max", "8", "--fail", "--location", "--silent", "--show-error"]
    run([*fetch, *options, *(["--proxy", proxy] if proxy else []), "--config", configuration], cwd=directory)


def _write_and_hash(files: Iterable[Path], output: Path) -> None:
    with output.open("wb", buffering=0) as destination:
        for path in files:
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    destination.write(block)


def _builder(*arguments: str | Path) -> list[str | Path]:
    return [_system_python(), _ROOT / "build-bundle.py", *arguments]


def _system_python() -> str:
    return f"/usr/bin/python{host_target(platform.machine()).release.python}"


def main() -> None:
    """Run the command line; end with status 1 when a bound was not kept."""
    parser = argparse.ArgumentParser(description="Measure bundles: their bytes, and the time to build and verify them.")
    names = f"{', '.join(BENCHES)} (default: all of these), {', '.join(ON_REQUEST)}"
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--payload", type=int, default=2000, metavar="MB", help="size of the large flow's wheels")
    parser.add_argument("--only", action="append", choices=[*BENCHES, *ON_REQUEST], metavar="NAME", help=names)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the builder's cache")
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pag-bench-", dir=options.directory) as directory:
        # A cache of its own, because what is made here is of no use to anybody; packages are linked into it.
        cache = Path(directory) / "cache"
        if (packages := options.cache / "sha256").is_dir():
            shutil.copytree(packages, cache / "sha256", copy_function=os.link)
        bench = Bench(Path(directory), options.rounds, options.payload * _MB, cache)
        for name in options.only or BENCHES:
            print(name, file=sys.stderr, flush=True)
            (BENCHES | ON_REQUEST)[name](bench)
        print("\n".join(report(bench)))
    sys.exit(not all(line.kept for line in bench.lines))


if __name__ == "__main__":
    main()

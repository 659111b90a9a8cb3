"""The round trip of an update: what the site has is carried out, and only what it lacks comes in.

The tests are the steps of one update, in order; each needs what the ones before it did.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import delta
import pytest
import readme
import snapshot
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER, Guide, Outcome
from machines import Machines
from prefect_api import PrefectApi
from scenario_log import report
from test_flows import expect_in_log
from test_mixed import FLOW
from testinfra.host import Host

On = Callable[[str], Host]

BUNDLE = "pag-software-bundle"
_DISCS = ("/media/disc-1", "/media/disc-2")
_ANSIBLE = f"{BUNDLE}/ansible"
_TARGETS = ("--python", "system")
# What the installer itself writes while it refuses: nothing; what the SSH user keeps is the tests' own.
_NOT_LOOKED_AT = r"^/(home|media)(/|$)"


@dataclass(frozen=True)
class Site:
    """The cluster, and the checkout on this host from which its updates are built."""

    machines: Machines
    checkout: Path

    @property
    def directory(self) -> Path:
        """Where the tests put on this host what they carry."""
        return self.checkout.parent

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the controller, whatever comes of it; standard error is in the output."""
        return subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, f"exec 2>&1; {command}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def do(self, command: str) -> str:
        """Run a shell command on the controller that must succeed, and return what it printed."""
        return self.machines.ssh(CONTROLLER, command)

    def refused(self, command: str, *words: str) -> str:
        """Assert that the command is refused in one sentence with these words, and changes nothing."""
        before = snapshot.take(self.machines, [CONTROLLER], also_ignore=_NOT_LOOKED_AT)
        finished = self.run(command)
        after = snapshot.take(self.machines, [CONTROLLER], also_ignore=_NOT_LOOKED_AT)
        assert finished.returncode != 0, f"accepted:\n{finished.stdout}"
        sentences = [line for line in finished.stdout.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, finished.stdout
        assert [word for word in words if word not in sentences[0]] == [], finished.stdout
        assert snapshot.differences(before, after) == []
        return finished.stdout


@pytest.fixture(scope="module")
def site(machines: Machines) -> Site:
    checkout = machines.directory / "update" / "checkout"
    delta.make_checkout(checkout)
    return Site(machines, checkout)


@pytest.fixture(scope="module")
def have(site: Site, guide: Guide) -> Path:
    """have.json as it was carried to the bootstrapper."""
    outcome = guide.run("controller-have")
    assert outcome.returncode == 0, outcome.output[-3000:]
    path = site.checkout / "have.json"
    path.write_text(site.do("cat have.json"))
    return path


@pytest.fixture(scope="module")
def plain(site: Site, have: Path) -> Path:
    """The update as one archive that nobody signed, with packages of the base and of a flow only."""
    output = site.directory / "plain" / delta.ARCHIVE
    output.parent.mkdir(exist_ok=True)
    finished = delta.build(site.checkout, [*_TARGETS, "--output", output])
    assert finished.returncode == 0, finished.stdout
    return output


@pytest.fixture(scope="module")
def key(site: Site) -> Path:
    """The key that signs bundles; the controller knows it from here on."""
    file = site.directory / "key"
    if not file.exists():
        delta.make_key(file)
    line = f'{delta.SIGNER} namespaces="pag-bundle" {file.with_suffix(".pub").read_text()}'
    site.do(f"sudo mkdir -p /etc/pag && echo {shlex.quote(line.strip())} | sudo tee /etc/pag/allowed_signers")
    return file


@pytest.fixture(scope="module")
def volumes(site: Site, have: Path, key: Path) -> list[Path]:
    """The update as it is carried: signed, with the distribution's updates, in volumes."""
    output = site.directory / "volumes" / delta.ARCHIVE
    output.parent.mkdir(exist_ok=True)
    for old in output.parent.iterdir():
        old.unlink()
    options = [*_TARGETS, "--system-updates", "--sign-key", key, "--split-size", "1M"]
    finished = delta.build(site.checkout, [*options, "--output", output])
    assert finished.returncode == 0, finished.stdout
    return delta.volumes(output.parent)


@pytest.fixture(scope="module")
def discs(site: Site, volumes: list[Path]) -> tuple[str, str]:
    """The directories on the controller that the volumes were copied to, in no order."""
    others = [path for path in volumes[0].parent.iterdir() if path not in volumes]
    site.do(f"sudo rm -rf {' '.join(_DISCS)}; sudo install -d -o operator {' '.join(_DISCS)}")
    for disc, paths in zip(_DISCS, (volumes[1::2], volumes[0::2]), strict=True):
        site.machines.copy([*paths, *others], CONTROLLER, disc)
    return _DISCS


@pytest.fixture(scope="module")
def unpacked(site: Site, plain: Path) -> Iterator[str]:
    """The unsigned update, unpacked on the controller beside what is installed."""
    site.do("rm -rf unsigned && mkdir unsigned")
    site.machines.copy([plain], CONTROLLER, "unsigned/")
    site.do(f"cd unsigned && tar -xf {delta.ARCHIVE}")
    yield f"unsigned/{BUNDLE}"
    site.do("rm -rf unsigned")


@pytest.fixture(scope="module")
def installed(site: Site, guide: Guide, discs: tuple[str, str]) -> Outcome:
    """What the README's commands for volumes said and did."""
    outcome = guide.run("controller-volumes")
    assert outcome.returncode == 0, outcome.output[-5000:]
    return outcome


@pytest.fixture(scope="module")
def updated(guide: Guide, installed: Outcome) -> list[Outcome]:
    """What the playbooks said that brought the update to the nodes."""
    return [guide.run(block) for block in ("controller-server", "controller-worker")]


def _sizes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _wheel(pin: delta.Pin) -> str:
    return f"{pin.name}-{pin.version}-py3-none-any.whl"


# --- What the site has


def test_have_tells_what_the_site_has(have: Path, on: On) -> None:
    document = json.loads(have.read_text())
    assert document["targets"] == ["debian-12-x86_64", "debian-13-x86_64"]
    assert any(path.startswith("mirror/pypi/prefect-3") for path in document["packages"])
    assert {system["target"] for system in document["systems"]} == set(document["targets"])
    assert any(flow["flow"] == "demo2" for flow in document["flows"])


def test_have_is_small_and_names_nobody(have: Path, site: Site, secrets: Secrets) -> None:
    text = have.read_text()
    assert len(text) < 400_000
    private = [*site.machines.addresses(), *site.machines.addresses().values(), secrets.database_password]
    assert [name for name in [*private, *secrets.basic_auth.split(":")[1:], "operator"] if name in text] == []


# --- Building what it lacks


def test_a_dry_run_says_what_would_travel(site: Site, have: Path) -> None:
    output = site.directory / "dry" / delta.ARCHIVE
    finished = delta.build(site.checkout, [*_TARGETS, "--dry-run", "--output", output])
    assert finished.returncode == 0, finished.stdout
    assert not output.exists()
    report(finished.stdout)


def test_only_what_changed_travels(site: Site, plain: Path) -> None:
    listing = subprocess.run(["tar", "-tzf", plain], check=True, capture_output=True, text=True).stdout.splitlines()
    packages = {Path(name).name for name in listing if re.search(r"\.(whl|conda|deb)$", name)}
    assert packages == {_wheel(delta.BASE_PACKAGE), _wheel(delta.FLOW_PACKAGE)}
    changed = subprocess.run(
        ["tar", "-xzf", plain, "--to-command", "wc -c", "--wildcards", "*.whl", "*/flows/*"],
        check=True,
        capture_output=True,
    ).stdout
    size = sum(map(int, changed.split()))
    # Only told: the flow's texts are counted as they are, and travel compressed. benches/bundle.py has the bound.
    report(f"delta of two wheels and a flow: {plain.stat().st_size} bytes; those themselves are {size}")


def test_volumes_are_smaller_than_asked_and_have_an_index(volumes: list[Path]) -> None:
    report(f"delta with the distribution's updates: {_sizes(volumes)} bytes in {len(volumes)} volumes")
    assert len(volumes) >= 3
    assert max(path.stat().st_size for path in volumes) < 1024**2
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "--ignore-missing", f"{delta.ARCHIVE}.sha256"],
        cwd=volumes[0].parent,
        check=True,
    )


# --- What is refused


@pytest.mark.usefixtures("key")
def test_an_unsigned_bundle_is_refused(site: Site, unpacked: str) -> None:
    site.refused(f"cd {unpacked} && bash install-pag-controller.sh", "signed")


@pytest.mark.usefixtures("key")
def test_a_bundle_with_another_signature_is_refused(site: Site, unpacked: str) -> None:
    site.do(
        f"cd {unpacked} && rm -f ../other* && ssh-keygen -q -t ed25519 -N '' -C {delta.SIGNER} -f ../other"
        " && ssh-keygen -q -Y sign -f ../other -n pag-bundle SHA256SUMS"
    )
    site.refused(f"cd {unpacked} && bash install-pag-controller.sh", "sign")


def test_a_missing_volume_is_named(site: Site, discs: tuple[str, str], volumes: list[Path]) -> None:
    said = site.refused(f"bash {discs[0]}/install-pag-controller.sh {discs[0]}", "volumes", "missing")
    assert volumes[0].name in said


def test_a_file_that_it_relies_on_is_named_when_the_site_lost_it(site: Site, discs: tuple[str, str]) -> None:
    path = site.do("ls /opt/pag/mirror/pypi/prefect-3*.whl").strip()
    size = site.do(f"stat -c %s {path}").strip()
    site.do(f"sudo mv {path} /opt/pag/mirror/lost")
    try:
        said = site.refused(f"bash {discs[0]}/install-pag-controller.sh {' '.join(discs)}", "rel")
    finally:
        site.do(f"sudo mv /opt/pag/mirror/lost {path}")
    (line,) = (line for line in said.splitlines() if Path(path).name in line)
    assert size in line


# --- Installing


def test_killed_and_started_again_it_goes_on(site: Site, discs: tuple[str, str]) -> None:
    """Twice, at moments of unpacking and of merging."""
    for seconds in (0.4, 2.5):
        killed = site.run(delta.killed_after(seconds, f"bash {discs[0]}/install-pag-controller.sh {' '.join(discs)}"))
        assert killed.returncode == 137, killed.stdout


def test_it_installs_from_two_directories(installed: Outcome) -> None:
    assert "This host is the controller now" in installed.output


@pytest.mark.usefixtures("installed")
def test_the_operators_files_stay(site: Site, secrets: Secrets) -> None:
    assert site.do(f"cd {_ANSIBLE} && ansible-vault view secrets.yml").strip() == secrets.to_yaml().strip()
    assert CPU_WORKERS[1] in site.do(f"cat {_ANSIBLE}/inventory.yml")


@pytest.mark.usefixtures("installed")
def test_it_can_be_checked_by_hand(site: Site) -> None:
    signed = f"-f /etc/pag/allowed_signers -I {delta.SIGNER} -n pag-bundle -s SHA256SUMS.sig"
    verify = f"ssh-keygen -Y verify {signed} < SHA256SUMS"
    said = site.do(f"cd {BUNDLE} && sha256sum --check --quiet SHA256SUMS && {verify}")
    assert "Good" in said


@pytest.mark.usefixtures("installed")
def test_the_receipt_is_the_same_outside_and_inside(site: Site, volumes: list[Path], key: Path) -> None:
    joined = site.directory / delta.ARCHIVE
    joined.write_bytes(b"".join(path.read_bytes() for path in volumes))
    signers = site.directory / "allowed_signers"
    signers.write_text(f'{delta.SIGNER} namespaces="pag-bundle" {key.with_suffix(".pub").read_text()}')
    outside = subprocess.run(
        ["python3", site.checkout / "build-bundle.py", "verify", "--allowed-signers", signers, joined],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    inside = site.do(f"cd {BUNDLE} && python3 -B -m airgap.verify .")
    assert _receipt(outside) == _receipt(inside)
    assert len(_receipt(outside)) >= 8


def _receipt(text: str) -> list[str]:
    words = "bundle|digest|files|signer|sbom|python|targets|base"
    return [line for line in text.splitlines() if re.match(rf"({words}) {{2,}}\S", line)]


def test_the_same_as_one_archive_changes_nothing(site: Site, guide: Guide, installed: Outcome) -> None:
    site.machines.copy([site.directory / delta.ARCHIVE], CONTROLLER, "")
    outcome = guide.run("controller-update")
    assert outcome.returncode == 0, outcome.output[-3000:]
    assert "nothing was changed" in outcome.output


# --- On the nodes


def test_the_playbooks_bring_it_to_the_nodes(updated: list[Outcome]) -> None:
    for outcome in updated:
        assert outcome.returncode == 0, outcome.output[-5000:]
        assert sum(outcome.changed.values()) > 0


@pytest.mark.usefixtures("updated")
@pytest.mark.parametrize("name", [SERVER, *CPU_WORKERS])
def test_the_base_environment_has_the_new_version(on: On, name: str) -> None:
    script = f"from importlib.metadata import version; print(version('{delta.BASE_PACKAGE.name}'))"
    said = on(name).check_output(f'/opt/prefect/pixi-env/env/bin/python -c "{script}"')
    assert said == delta.BASE_PACKAGE.version


@pytest.mark.usefixtures("updated")
def test_the_updated_flow_runs_everywhere(site: Site, api: PrefectApi) -> None:
    deploy = "ansible-playbook -i inventory.yml prefect-flow-deployment.yml"
    said = site.do(f"cd {_ANSIBLE} && {deploy} -e flow_dir=../flows/demo2 -e entrypoint=main.py:my_workflow")
    assert f"installed on {', '.join(CPU_WORKERS)}" in said
    runs = [api.start(FLOW) for _ in range(5)]
    for run in runs:
        assert api.wait(run)["state_type"] == "COMPLETED", api.logs(run)
        expect_in_log(api, run, f"{delta.FLOW_PACKAGE.name} {re.escape(delta.FLOW_PACKAGE.version)}")


@pytest.mark.usefixtures("updated")
def test_the_playbooks_change_nothing_the_second_time(guide: Guide) -> None:
    for block in ("controller-server", "controller-worker"):
        outcome = guide.run(block)
        assert {host: count for host, count in outcome.changed.items() if count} == {}, outcome.output[-5000:]


# --- In another order


@pytest.fixture(scope="module")
def another(site: Site) -> Iterator[str]:
    """A second controller that has nothing yet, with the delta and the first bundle on its disk."""
    name = "pag-controller-2"
    if name in site.machines.addresses():
        site.machines.testbed("remove", name)
    site.machines.testbed("add", name)
    site.machines.ssh(name, "mkdir first second")
    site.machines.copy([site.machines.directory / "bundle" / delta.ARCHIVE], name, "first/")
    site.machines.copy([site.directory / delta.ARCHIVE], name, "second/")
    for directory in ("first", "second"):
        site.machines.ssh(name, f"cd {directory} && tar -xf {delta.ARCHIVE} && rm {delta.ARCHIVE}")
    yield name
    site.machines.testbed("remove", name)


def test_a_delta_alone_is_refused(site: Site, another: str) -> None:
    finished = subprocess.run(
        ["ssh", "-F", site.machines.ssh_config, another, f"cd second/{BUNDLE} && bash install-pag-controller.sh"],
        capture_output=True,
        text=True,
    )
    assert finished.returncode != 0
    assert not site.machines.ssh(another, "ls -d /opt/pag || true").strip()
    assert "prefect-3" in finished.stdout + finished.stderr


def test_with_the_first_bundle_beside_it_a_delta_installs(site: Site, another: str) -> None:
    site.machines.ssh(another, f"cd second/{BUNDLE} && bash install-pag-controller.sh --with ~/first/{BUNDLE}")
    assert site.machines.ssh(another, f"cd second/{BUNDLE}/ansible && ansible-playbook --version").startswith("ansible")


def test_the_first_bundle_after_it_takes_nothing_away(site: Site, another: str) -> None:
    packages = "find /opt/pag/mirror -type f -name '*.whl' -o -name '*.deb'"
    before = set(site.machines.ssh(another, packages).split())
    site.machines.ssh(another, f"cd first/{BUNDLE} && bash install-pag-controller.sh")
    index = site.machines.ssh(another, f"cat /opt/pag/mirror/pypi/simple/{delta.BASE_PACKAGE.name}/index.html")
    assert before <= set(site.machines.ssh(another, packages).split())
    assert _wheel(delta.BASE_PACKAGE) in index


# --- At the end


def _playbook(site: Site, name: str, *arguments: str) -> str:
    return site.do(f"cd {_ANSIBLE} && ansible-playbook -i inventory.yml {name} {shlex.join(arguments)}")


@pytest.mark.usefixtures("updated")
def test_the_distributions_updates_are_applied(site: Site) -> None:
    """Those that the archive has today, which may be none; test_system_updates makes some."""
    _playbook(site, "system-updates.yml")
    assert set(re.findall(r"changed=(\d+)", _playbook(site, "system-updates.yml", "--check"))) == {"0"}


@pytest.mark.usefixtures("updated")
def test_the_audit_finds_nothing(site: Site) -> None:
    _playbook(site, "audit.yml")


@pytest.mark.usefixtures("updated")
def test_pruning_says_first_what_it_would_remove(site: Site) -> None:
    listing = "sudo find /opt/pag -type f"
    # What a kept version of a flow needs stays as long as that.
    wheel = re.compile(rf"{delta.BASE_PACKAGE.name}-[0-9.]+-py3")
    assert not wheel.search(_playbook(site, "prune.yml", "--check", "-e", "keep_bundles=1"))
    for flow in ("demo1", "demo2", "demo3"):
        if site.do(f"ls -d /opt/pag/flows/{flow} 2>/dev/null || true").strip():
            pool = "gpu-pool" if flow == "demo3" else "cpu-pool"
            deploy = (
                "-e",
                f"flow_dir=../flows/{flow}",
                "-e",
                "entrypoint=main.py:my_workflow",
                "-e",
                f"work_pool={pool}",
            )
            _playbook(site, "prefect-flow-deployment.yml", *deploy, "-e", "keep_versions=1")
    before = set(site.do(listing).split())
    said = _playbook(site, "prune.yml", "--check", "-e", "keep_bundles=1")
    assert set(site.do(listing).split()) == before
    pruned = _playbook(site, "prune.yml", "-e", "keep_bundles=1")
    (summary,) = re.findall(r"\d+ files were removed, .*freed", pruned)
    report(summary)
    assert summary.replace("were", "would be") in said
    gone = {Path(path).name for path in before - set(site.do(listing).split()) if path.endswith(".whl")}
    # The other package's old version stays: it is in environments that did not change.
    assert {name.partition("-")[0] for name in gone} == {delta.BASE_PACKAGE.name}
    assert "changed=0" in _playbook(site, "prune.yml", "--check", "-e", "keep_bundles=1")


def test_the_whole_still_runs(api: PrefectApi) -> None:
    run = api.start(FLOW)
    assert api.wait(run)["state_type"] == "COMPLETED", api.logs(run)


def test_what_it_took(guide: Guide) -> None:
    for outcome in guide.outcomes():
        report(f"{outcome.block}: {outcome.seconds:.1f} s, {outcome.received / 1e6:.1f} MB received")
    assert readme.commands("bootstrapper-delta")

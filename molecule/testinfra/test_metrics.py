"""Metrics on request: who offers them, where, that a dashboard's metrics exist, and that they go away again."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster_site import CPU_WORKERS, GPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from machines import Machines

ANSIBLE = "pag-software-bundle/ansible"
PORT = 9100
TRUST = "SSL_CERT_FILE=/etc/pag/ca.crt"
NODES = (SERVER, *CPU_WORKERS)
UNITS = ("prometheus-node-exporter.service", "pag-metrics.timer")
ROLE = Path(__file__).resolve().parents[2] / "ansible/roles/metrics"
# What Prometheus itself makes.
OF_PROMETHEUS = {"up"}
# Words of its language, and labels, that stand where names stand.
_NAME = re.compile(r"\b(?:up|(?:pag|node|process|prefect|python)_\w+)\b(?!\s*=)")


def play(machines: Machines, *arguments: str) -> tuple[int, int, str]:
    """Run ``main.yml --tags metrics`` and return its exit code, the sum of the recap's changes, and its output."""
    finished = subprocess.run(
        [
            "ssh",
            "-F",
            machines.ssh_config,
            CONTROLLER,
            f"cd {ANSIBLE} && pag main --tags metrics {shlex.join(arguments)}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    changes = re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", finished.stdout, re.MULTILINE)
    return finished.returncode, sum(map(int, changes)), finished.stdout


@pytest.fixture(scope="module")
def metrics(machines: Machines) -> Iterator[dict[str, str]]:
    """What each node's exporter offers, read from the controller."""
    returncode, _, output = play(machines)
    assert returncode == 0, output[-3000:]
    # The collector looks at once, and again after 30 s: the server, which was restarted, may not have answered yet.
    addresses = machines.addresses()
    for name in NODES:
        seen = "grep -q 'pag_server_up 1'" if name == SERVER else "test -e"
        machines.ssh(
            name, f"for i in $(seq 300); do {seen} /var/lib/pag-metrics/pag.prom && exit; sleep 0.2; done; exit 1"
        )
    yield {name: _get(machines, f"http://{addresses[name]}:{PORT}/metrics") for name in NODES}
    returncode, _, output = play(machines, "-e", "metrics_state=absent")
    assert returncode == 0, output[-3000:]
    for name in NODES:
        for unit in UNITS:
            assert machines.ssh(name, f"systemctl is-active {unit}", check=False).strip() == "inactive", (name, unit)
        assert not machines.ssh(name, f"ss -Hltn sport = :{PORT}").strip()
        machines.ssh(name, "! test -e /var/lib/pag-metrics && ! test -e /usr/local/lib/pag-metrics")
    assert "PREFECT_SERVER_METRICS_ENABLED" not in _server_environment(machines)


def _get(machines: Machines, url: str, login: str | None = None) -> str:
    """Return what the controller reads at *url*; the login is in no process list."""
    program = (
        "import sys, urllib.request as u; h = sys.stdin.read().strip(); "
        f"r = u.Request({url!r}, headers={{'Authorization': h}} if h else {{}}); "
        "print(u.urlopen(r, timeout=10).read().decode())"
    )
    header = "" if login is None else "Basic " + base64.b64encode(login.encode()).decode()
    return machines.ssh(CONTROLLER, f"{TRUST} python3 -c {shlex.quote(program)}", stdin=header)


def _server_environment(machines: Machines) -> str:
    return machines.ssh(SERVER, "sudo cat /proc/$(systemctl show -P MainPID prefect-server)/environ | tr '\\0' '\\n'")


def _names(text: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_:]\w*)(?:\{| )", text, re.MULTILINE))


def _value(text: str, sample: str) -> float:
    (found,) = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_nothing_was_there_before(machines: Machines) -> None:
    for name in NODES:
        assert not machines.ssh(name, f"ss -Hltn sport = :{PORT}").strip()


def test_exporters_listen_on_the_clusters_address_alone(machines: Machines, metrics: dict[str, str]) -> None:
    assert set(metrics) == set(NODES)
    addresses = machines.addresses()
    for name in NODES:
        (line,) = machines.ssh(name, f"ss -Hltn sport = :{PORT}").splitlines()
        assert line.split()[3] == f"{addresses[name]}:{PORT}"


def test_nodes_tell_of_services_and_environment(machines: Machines, metrics: dict[str, str]) -> None:
    for name in CPU_WORKERS:
        assert _value(metrics[name], 'pag_worker_up{kind="cpu"}') == 1
        assert _value(metrics[name], 'pag_worker_runs{kind="cpu"}') == 0
        assert _value(metrics[name], 'pag_unit_active{unit="prefect-worker-cpu.service"}') == 1
        digest = machines.ssh(name, "readlink -f /opt/prefect/pixi-env").strip()[-12:]
        assert f'digest="{digest}"' in metrics[name]
        assert "node_memory_MemAvailable_bytes" in metrics[name]
        assert "pag_server_up" not in metrics[name]
        assert ('pag_worker_up{kind="gpu"}' in metrics[name]) == (name in GPU_WORKERS)


def test_the_server_tells_of_pools_and_runs(metrics: dict[str, str]) -> None:
    text = metrics[SERVER]
    assert _value(text, "pag_server_up") == 1
    assert _value(text, 'pag_pool_workers_online{pool="cpu-pool"}') == len(CPU_WORKERS)
    assert _value(text, 'pag_runs{state="late"}') == 0


def test_the_servers_own_metrics_need_the_login(machines: Machines, metrics: dict[str, str], secrets: Secrets) -> None:
    del metrics
    url = f"https://{machines.addresses()[SERVER]}:4200/api/metrics"
    assert "process_resident_memory_bytes" in _get(machines, url, secrets.basic_auth)
    program = f"import urllib.request as u; u.urlopen({url!r}, timeout=10)"
    assert "401" in machines.ssh(CONTROLLER, f"{TRUST} python3 -c {shlex.quote(program)} 2>&1", check=False)


def test_the_dashboard_asks_for_metrics_that_exist(
    machines: Machines, metrics: dict[str, str], secrets: Secrets
) -> None:
    server = _get(machines, f"https://{machines.addresses()[SERVER]}:4200/api/metrics", secrets.basic_auth)
    exported = OF_PROMETHEUS | _names(server) | {name for text in metrics.values() for name in _names(text)}
    dashboard = json.loads(machines.ssh(CONTROLLER, "cat pag-metrics/grafana-dashboard.json"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for expression in expressions for name in _NAME.findall(expression)}
    # There is none before the first backup.
    assert asked - exported <= {"pag_backup_age_seconds"}
    assert "pag_backup_age_seconds" in (ROLE / "files/pag_metrics.py").read_text()
    assert len(asked) > 15


def test_the_example_names_every_node(machines: Machines, metrics: dict[str, str], secrets: Secrets) -> None:
    del metrics
    text = machines.ssh(CONTROLLER, "cat pag-metrics/prometheus.yml")
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    targets = {entry["labels"]["node"]: entry["targets"] for entry in jobs["pag-nodes"]["static_configs"]}
    addresses = machines.addresses()
    assert targets == {name: [f"{addresses[name]}:{PORT}"] for name in NODES}
    assert jobs["prefect-server"]["basic_auth"]["username"] == secrets.basic_auth.partition(":")[0]
    assert secrets.basic_auth.partition(":")[2] not in text


def test_what_stops_shows_at_the_next_look(machines: Machines, metrics: dict[str, str]) -> None:
    del metrics
    worker = CPU_WORKERS[0]
    machines.ssh(worker, "sudo systemctl stop prefect-worker-cpu && sudo systemctl start pag-metrics.service")
    try:
        text = _get(machines, f"http://{machines.addresses()[worker]}:{PORT}/metrics")
        assert _value(text, 'pag_worker_up{kind="cpu"}') == 0
    finally:
        machines.ssh(worker, "sudo systemctl start prefect-worker-cpu")


def test_the_same_again_changes_nothing(machines: Machines, metrics: dict[str, str]) -> None:
    del metrics
    started = time.monotonic()
    returncode, changes, output = play(machines)
    assert (returncode, changes) == (0, 0), output[-3000:]
    assert time.monotonic() - started < 120

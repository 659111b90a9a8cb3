"""The server, as the running system shows it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest
from cluster_site import SERVER, Secrets
from machines import Machines
from prefect_api import ApiError, PrefectApi
from testinfra.host import Host

On = Callable[[str], Host]


def assert_running(host: Host, unit: str) -> None:
    """Assert that a unit runs and starts at boot; show its journal when it does not."""
    service = host.service(unit)
    if not (service.is_running and service.is_enabled):
        pytest.fail(f"{unit}: {host.run('systemctl status --no-pager --lines=40 %s', unit).stdout}")


@pytest.mark.parametrize("unit", ["postgresql", "prefect-server", "nginx"])
def test_services_run_and_start_at_boot(on: On, unit: str) -> None:
    assert_running(on(SERVER), unit)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "prefect"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("PrivateTmp", "yes"),
        ("Restart", "always"),
    ],
)
def test_the_server_is_confined(on: On, name: str, value: str) -> None:
    assert on(SERVER).service("prefect-server").systemd_properties[name] == value


def test_the_server_is_as_closed_as_it_can_be(on: On) -> None:
    said = on(SERVER).check_output("systemd-analyze security --no-pager prefect-server.service | tail -n 1")
    assert float(said.split(":")[1].split()[0]) <= 2.0, said


def _listening(host: Host) -> set[str]:
    lines = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
    return {line.split()[3] for line in lines}


def test_only_ssh_and_the_proxy_listen_on_the_network(on: On) -> None:
    outside = {address for address in _listening(on(SERVER)) if not address.startswith(("127.", "[::1]"))}
    assert {address.rpartition(":")[2] for address in outside} == {"22", "4200"}


def test_prefect_listens_on_the_loopback_address_and_the_database_on_none(on: On) -> None:
    listening = _listening(on(SERVER))
    assert "127.0.0.1:4201" in listening
    assert not {address for address in listening if address.endswith(":5432")}


def test_the_controller_offers_the_ui_on_its_own_localhost_only(on: On) -> None:
    addresses = {address for address in _listening(on("pag-controller")) if address.endswith(":4200")}
    assert addresses == {"127.0.0.1:4200"}


@pytest.mark.parametrize(
    ("path", "user", "mode"),
    [
        ("/etc/prefect/server.env", "root", 0o600),
        ("/opt/prefect/.prefect", "prefect", 0o700),
        ("/opt/prefect/.prefect/profiles.toml", "prefect", 0o600),
        ("/opt/prefect/envs", "root", 0o755),
    ],
)
def test_modes(on: On, path: str, user: str, mode: int) -> None:
    file = on(SERVER).file(path)
    assert (file.user, oct(file.mode)) == (user, oct(mode))


@pytest.mark.parametrize("directory", ["/etc", "/usr", "/var", "/root", "/opt"])
def test_the_systems_directories_kept_their_modes(on: On, directory: str) -> None:
    file = on(SERVER).file(directory)
    assert (file.user, oct(file.mode)) == ("root", oct(0o700 if directory == "/root" else 0o755))


def _sql(host: Host, statement: str) -> str:
    command = f"cd / && runuser -u postgres -- psql --no-align --tuples-only --command {shlex.quote(statement)}"
    return host.check_output(f"bash -c {shlex.quote(command)}").strip()


def test_the_database_is_new_enough_and_hashes_passwords_with_scram(on: On) -> None:
    host = on(SERVER)
    assert int(_sql(host, "SHOW server_version_num")) >= 140009
    assert _sql(host, "SHOW password_encryption") == "scram-sha-256"
    assert _sql(host, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'prefect'") == "t"
    methods = _sql(host, "SELECT DISTINCT auth_method FROM pg_hba_file_rules WHERE type <> 'local'").split()
    assert set(methods) <= {"scram-sha-256", "reject"}


def test_the_servers_tables_are_in_the_database(on: On) -> None:
    counted = _sql(on(SERVER), "SELECT datname FROM pg_database WHERE datname LIKE 'prefect%'").split()
    assert len(counted) == 1


def test_health_needs_no_login_and_the_rest_does(api: PrefectApi) -> None:
    assert PrefectApi(api.url).request("GET", "/health") is True
    with pytest.raises(ApiError, match="401"):
        PrefectApi(api.url).request("POST", "/deployments/filter", {})
    with pytest.raises(ApiError, match="401"):
        PrefectApi(api.url, "admin:wrong").request("POST", "/deployments/filter", {})
    assert re.match(r"3\.", api.request("GET", "/admin/version"))


def test_the_work_pools_are_there(api: PrefectApi) -> None:
    assert {"cpu-pool", "gpu-pool"} <= {pool["name"] for pool in api.work_pools() if pool["type"] == "process"}


def test_passwords_are_where_only_root_and_prefect_read_them(on: On, machines: Machines, secrets: Secrets) -> None:
    password = secrets.basic_auth.partition(":")[2]
    for name in machines.addresses():
        host = on(name)
        # As a user with no rights. The patterns travel over standard input: this test must not leak them either.
        script = (
            "umask 077; cat > /run/patterns; chmod 644 /run/patterns;"
            " runuser -u nobody -- grep --recursive --files-with-matches --fixed-strings --file=/run/patterns"
            " --devices=skip /run/patterns /etc /opt /usr/local /var/lib /var/log /tmp /run/systemd 2>/dev/null;"
            " ps -eo args | grep --fixed-strings --file=/run/patterns;"
            " journalctl --no-pager --boot | grep --fixed-strings --file=/run/patterns; rm /run/patterns"
        )
        found = machines.ssh(
            name, f"sudo bash -c {shlex.quote(script)}", stdin=f"{password}\n{secrets.database_password}\n", check=False
        )
        assert host.file("/run/patterns").exists is False
        # The patterns' own file shows that the search finds what is there.
        assert found.split() == ["/run/patterns"], f"on {name}"

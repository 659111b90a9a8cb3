"""The door: who is let in at the server's port, over what, and what is said to everybody else."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from machines import Machines
from testinfra.host import Host

On = Callable[[str], Host]
AUTHORITIES = "/etc/pag/ca.crt"
# Asks for what it reads, one question after the other, and prints what was answered; redirections are not followed.
_ASK = """
import http.client, json, ssl, sys
for address, secure, authorities, path, headers in json.load(sys.stdin):
    host, port = address.split(":")
    try:
        if secure:
            context = ssl.create_default_context(cafile=authorities)
            connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
        else:
            connection = http.client.HTTPConnection(host, int(port), timeout=10)
        method = "POST" if "Content-Type" in headers else "GET"
        connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
        answer = connection.getresponse()
        print(json.dumps([answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")[:2000]]))
    except OSError as error:
        print(json.dumps([0, {}, str(error)]))
"""
# Asks for a websocket so often at the same time, and prints the answers' status.
_OPEN = """
import concurrent.futures, json, socket, ssl, sys
host, path, times, headers = json.load(sys.stdin)
context = ssl.create_default_context(cafile="/etc/pag/ca.crt")
lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: upgrade", "Upgrade: websocket", *headers]
lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol: prefect"]
def ask(_):
    plain = socket.create_connection((host, 4200), timeout=60)
    with context.wrap_socket(plain, server_hostname=host) as connection:
        connection.sendall("\\r\\n".join([*lines, "", ""]).encode())
        return int(connection.recv(100).split()[1])
with concurrent.futures.ThreadPoolExecutor(times) as pool:
    print(json.dumps(list(pool.map(ask, range(times)))))
"""
_SOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled")
_HEADERS = {
    "strict-transport-security": "max-age=31536000",
    "content-security-policy": "default-src 'self'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "x-permitted-cross-domain-policies": "none",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=()",
}
Answer = tuple[int, Mapping[str, str], str]


def ask(
    machines: Machines,
    paths: list[str],
    *,
    machine: str = CONTROLLER,
    address: str = f"{SERVER}:4200",
    secure: bool = True,
    authorities: str | None = AUTHORITIES,
    login: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Return what the server answers a machine; status 0 with the reason when it answers nothing."""
    given = dict(headers or {})
    if login is not None:
        given["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    questions: list[Any] = [[address, secure, authorities, path, given] for path in paths]
    # The login travels over standard input and is in no process list.
    output = machines.ssh(machine, f"python3 -c {shlex.quote(_ASK)}", stdin=json.dumps(questions))
    answers = [json.loads(line) for line in output.splitlines()]
    return [(status, {name.lower(): value for name, value in found.items()}, text) for status, found, text in answers]


def open_sockets(machines: Machines, path: str, times: int, login: str | None = None) -> list[int]:
    """Return what is answered to a machine that asks for a websocket so often at the same time."""
    headers = [] if login is None else [f"Authorization: Basic {base64.b64encode(login.encode()).decode()}"]
    asked = json.dumps([SERVER, f"/api/{path}", times, headers])
    statuses: list[int] = json.loads(machines.ssh(CONTROLLER, f"python3 -c {shlex.quote(_OPEN)}", stdin=asked))
    return statuses


def test_the_server_is_verified_by_every_name(machines: Machines) -> None:
    for machine in (CONTROLLER, *CPU_WORKERS[:1]):
        for name in (SERVER, machines.addresses()[SERVER]):
            ((status, _, text),) = ask(machines, ["/api/health"], machine=machine, address=f"{name}:4200")
            assert (status, text) == (200, "true")
    ((status, _, _),) = ask(machines, ["/api/health"], machine=SERVER, address="localhost:4200")
    assert status == 200
    ((status, _, reason),) = ask(machines, ["/api/health"], authorities=None)
    assert status == 0
    assert "CERTIFICATE_VERIFY_FAILED" in reason


def test_old_protocols_are_refused(machines: Machines) -> None:
    program = (
        "import socket, ssl; c = ssl.create_default_context(cafile='/etc/pag/ca.crt'); "
        "c.set_ciphers('ALL:@SECLEVEL=0'); c.minimum_version = ssl.TLSVersion.TLSv1; "
        "c.maximum_version = ssl.TLSVersion.TLSv1_1; "
        f"c.wrap_socket(socket.create_connection(('{SERVER}', 4200)), server_hostname='{SERVER}')"
    )
    said = machines.ssh(CONTROLLER, f"python3 -W ignore -c {shlex.quote(program)} 2>&1", check=False)
    assert "PROTOCOL_VERSION" in said.upper()


def test_plain_http_is_answered_with_the_address_alone(machines: Machines, secrets: Secrets) -> None:
    paths = ["/", "/api/health", "/api/admin/version"]
    for (status, headers, _), path in zip(
        ask(machines, paths, secure=False, login=secrets.basic_auth), paths, strict=True
    ):
        assert (status, headers["location"]) == (308, f"https://{SERVER}:4200{path}")


def test_browsers_behind_the_tunnel_need_no_certificate(machines: Machines) -> None:
    home, health, api = ask(
        machines, ["/", "/api/health", "/api/admin/version"], address="127.0.0.1:4200", secure=False
    )
    assert (home[0], health[0], api[0]) in {(200, 200, 401), (307, 200, 401)}
    assert home[1].get("location", "/").startswith("/")


def test_redirections_lead_nowhere_else(machines: Machines) -> None:
    """Neither past the tunnel to a port that is not there, nor to another host."""
    paths = {"/v2": "/v2/", "//elsewhere.example/..": "/elsewhere.example/../"}
    for secure, address in ((False, "127.0.0.1:4200"), (True, f"{SERVER}:4200")):
        told = ask(machines, list(paths), address=address, secure=secure)
        assert [(status, headers.get("location")) for status, headers, _ in told] == [
            (307, location) for location in paths.values()
        ]


def test_nothing_is_told_without_the_login(machines: Machines) -> None:
    paths = ["/api/admin/version", "/api/docs", "/api/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"]
    paths += ["/openapi.json", "//docs", "/%64ocs", "/x/../openapi.json"]
    paths += ["/api/collections/views/aggregate-worker-metadata"]
    for headers in ({}, {"Upgrade": "websocket", "Connection": "upgrade"}, {"X-Original-URL": "/api/health"}):
        told = {path: answer[0] for path, answer in zip(paths, ask(machines, paths, headers=headers), strict=True)}
        assert told == dict.fromkeys(paths, 401)


def test_the_login_opens(machines: Machines, secrets: Secrets) -> None:
    version, openapi = ask(machines, ["/api/admin/version", "/openapi.json"], login=secrets.basic_auth)
    assert (version[0], openapi[0]) == (200, 200)
    assert version[1]["cache-control"] == "no-store"


def test_an_error_of_the_servers_is_nobody_elses(machines: Machines, secrets: Secrets) -> None:
    """What comes right after a request that was answered 500 is answered by the server, and not by the proxy for it."""
    fails = "/api/flow_runs/00000000-0000-4000-8000-000000000000/resume"
    json_body = {"Content-Type": "application/json"}
    told = ask(machines, [fails, "/api/health"] * 50, login=secrets.basic_auth, headers=json_body)
    # The server takes no POST there.
    assert [status for status, _, _ in told] == [500, 405] * 50
    assert not any("prefect-maintenance" in headers for _, headers, _ in told)


def test_headers(machines: Machines) -> None:
    for _, headers, _ in ask(machines, ["/", "/api/health", "/docs"]):
        for name, value in _HEADERS.items():
            assert value in headers[name], name


def test_other_sites_scripts_may_not_read(machines: Machines, secrets: Secrets) -> None:
    ((status, headers, _),) = ask(
        machines, ["/api/admin/version"], login=secrets.basic_auth, headers={"Origin": "https://elsewhere.example"}
    )
    assert status == 200
    assert "access-control-allow-origin" not in headers


def test_other_sites_pages_may_not_change(machines: Machines, secrets: Secrets) -> None:
    said = []
    for site in ("cross-site", "same-site", "same-origin"):
        headers = {"Content-Type": "application/json", "Sec-Fetch-Site": site}
        ((status, _, _),) = ask(machines, ["/api/flows/filter"], login=secrets.basic_auth, headers=headers)
        said.append(status)
    assert said == [403, 403, 200]


def test_guesses_are_limited_and_logins_are_not(machines: Machines, secrets: Secrets) -> None:
    guesses = [answer[0] for answer in ask(machines, ["/api/admin/version"] * 30, login="admin:guess")]
    assert set(guesses) == {401, 429}
    assert guesses.count(401) <= 15
    rights = [answer[0] for answer in ask(machines, ["/api/admin/version"] * 30, login=secrets.basic_auth)]
    assert set(rights) == {200}


def test_websockets_that_ask_for_the_login_themselves_are_let_in(machines: Machines) -> None:
    assert [open_sockets(machines, path, 1) for path in _SOCKETS] == [[101]] * len(_SOCKETS)
    assert open_sockets(machines, "work_pools/cpu-pool/workers/connect", 1) == [401]


def test_who_opens_many_websockets_without_the_login_is_slowed(machines: Machines, secrets: Secrets) -> None:
    many = open_sockets(machines, "events/out", 160)
    assert set(many) == {101, 429}
    assert open_sockets(machines, "events/out", 160, secrets.basic_auth) == [101] * 160


@pytest.mark.parametrize(
    ("machine", "path", "mode"),
    [
        (SERVER, "/etc/pag/server.key", 0o600),
        (SERVER, "/etc/pag/login.conf", 0o600),
        (SERVER, "/etc/pag/server.crt", 0o644),
        (CONTROLLER, "/etc/pag/authority/ca.key", 0o600),
        (CONTROLLER, "/etc/pag/authority/server.key", 0o600),
        (CPU_WORKERS[0], AUTHORITIES, 0o644),
    ],
)
def test_keys_are_roots_alone(on: On, machine: str, path: str, mode: int) -> None:
    file = on(machine).file(path)
    assert (file.user, file.group, oct(file.mode)) == ("root", "root", oct(mode))


def test_workers_have_no_keys(on: On) -> None:
    assert sorted(on(CPU_WORKERS[0]).file("/etc/pag").listdir()) == ["ca.crt", "firewall.nft"]

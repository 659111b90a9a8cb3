"""The door, asked what no client asks: hostile requests and an API fuzzer, without the login and with it.

``PAG_FUZZ_SECONDS`` is how long it takes without what is made by hand (600): a fifth with requests of random tricks, a
fifth with the fuzzer without the login, the rest with the fuzzer that has it. ``PAG_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import secrets as random_words
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import playbooks
import pytest
from cluster_site import SERVER, Secrets
from fuzzer import fuzz
from guide import FLOWS, Guide
from hostile import CLOSED, OPEN, at_random, made_by_hand
from machines import Machines
from prefect_api import PrefectApi
from raw_http import Answer, Door, answers, closing_code, converse, login_header
from scenario_log import report
from testinfra.host import Host

On = Callable[[str], Host]
SECONDS = int(os.environ.get("PAG_FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("PAG_FUZZ_SEED", time.time_ns() % 10**6))
CANARY = f"canary-{random_words.token_hex(12)}"
READY = b'{"message":"OK"}'
UI = "/var/cache/prefect-server/ui"
SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out", "/api/task_runs/subscriptions/scheduled")
# What nginx answers where it takes what came for no request, or for none that it knows.
NO_REQUESTS = {400, 405, 408, 411, 413, 414, 431, 494, 501, 505}
REFUSED = {401, 403, 404, 422, 429} | NO_REQUESTS


@dataclass
class Judge:
    """Says what is wrong with an answer to somebody without the login, and counts."""

    public: set[str]
    """SHA-256 of everything that is for all: the UI's files, and the few short answers."""
    pages: list[bytes]
    """Of which a part may be asked for."""
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """500 of the server's own, by what was asked."""

    def complaint(self, sent: str, method: str, answer: Answer) -> str | None:
        """Return what is wrong; None: nothing."""
        self.statuses[answer.status] += 1
        if CANARY.encode() in answer.body or CANARY in str(answer.headers):
            return "says what is in the database"
        if answer.status == 500:
            self.errors[sent.split("\r\n")[0][:200]] += 1
            return None
        return self.judge(sent, method, answer.status, answer.headers, sha256(answer.body).hexdigest(), answer.body)

    def judge(
        self, sent: str, method: str, status: int, headers: dict[str, str], digest: str, body: bytes | None = None
    ) -> str | None:
        """Return what is wrong with a status and what came with it."""
        if status in {502, 504} or "prefect-maintenance" in headers:
            return "the proxy had no answer of the server's"
        if status in REFUSED:
            return None
        if status in {301, 302, 303, 307, 308}:
            return _elsewhere(headers.get("location", ""))
        if status == 101:
            return None if any(path in urllib.parse.unquote(sent) for path in SOCKETS) else "a websocket was opened"
        if status == 0 and body is not None:
            # HTTP/0.9 has no status.
            return None if not body or b"Unauthorized" in body or b"<center>" in body else f"says {body[:200]!r}"
        if status == 206 and body is not None:
            return None if any(body in page for page in self.pages) else "a part of what is not public"
        if status in {200, 204, 304}:
            return None if digest in self.public or body == b"" else f"says {(body or b'')[:200]!r}"
        return "nobody expects that status"


def _elsewhere(location: str) -> str | None:
    """Return what is wrong with the place that an answer sends browsers to."""
    ours = location.startswith("/") and not location.startswith(("//", "/\\"))
    return None if ours else f"sends browsers to {location}"


@pytest.fixture(scope="module")
def door(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The server's port, through a tunnel to the server."""
    authorities = tmp_path_factory.mktemp("door") / "ca.crt"
    authorities.write_text(machines.ssh(SERVER, "cat /etc/pag/ca.crt"))
    with machines.tunnel(SERVER) as port:
        yield Door(port, authorities)


@pytest.fixture(scope="module", autouse=True)
def canary(machines: Machines, secrets: Secrets) -> None:
    """What is in the database, and must not come out."""
    with machines.tunnel() as port:
        api = PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)
        api.request("POST", "/flows/", {"name": CANARY})
        api.request("POST", "/variables/", {"name": CANARY.replace("-", "_"), "value": CANARY})


def _processes(on: On) -> dict[str, str]:
    show = "systemctl show --property=NRestarts,MainPID,ExecMainStartTimestamp --value"
    return {
        unit: on(SERVER).check_output(f"{show} {unit}") for unit in ("prefect-server", "nginx", "postgresql@15-main")
    }


@pytest.fixture(scope="module", autouse=True)
def processes(on: On) -> dict[str, str]:
    """The processes that answer, before anything hostile was asked."""
    return _processes(on)


@pytest.fixture(scope="module")
def judge(door: Door, on: On) -> Judge:
    """What is public: the UI's files, where to find the API, and whether the server is there."""
    said = on(SERVER).check_output(f"find {UI} -type f -exec sha256sum {{}} +")
    public = {line.split()[0] for line in said.splitlines()}
    assert len(public) > 10, said
    settings = door.ask("GET", "/ui-settings")
    assert sorted(json.loads(settings.body)) == [
        *("api_url", "auth", "available_uis", "csrf_enabled", "default_ui", "flags", "v1_base_url", "v2_base_url")
    ]
    pages = [door.ask("GET", path).body for path in ("/index.html", "/v2/index.html")]
    return Judge(public | {sha256(text).hexdigest() for text in (settings.body, b"true", READY)}, pages)


def _report(what: str, judged: Judge) -> None:
    statuses = ", ".join(f"{count} times {status}" for status, count in sorted(judged.statuses.items()))
    report(f"{what}: {statuses}")
    for asked, count in judged.errors.most_common():
        report(f"500 of the server's own, {count} times: {asked}")


def _complaints(door: Door, judged: Judge, requests: Iterable[tuple[str, bytes]]) -> list[str]:
    found = []
    for method, sent in requests:
        for answer in answers(door.send(sent), method):
            text = sent.decode("latin-1")
            if complaint := judged.complaint(text, method, answer):
                found.append(f"{text[:300]!r} was answered {answer.status}: {complaint}")
    return found


def test_with_the_login_the_canary_can_be_seen(door: Door, secrets: Secrets) -> None:
    login = [login_header(secrets.basic_auth)]
    assert CANARY.encode() in door.ask("POST", "/api/flows/filter", headers=login, body=b"{}").body
    assert CANARY.encode() in door.ask("POST", "/api/variables/filter", headers=login, body=b"{}").body


def test_hostile_requests_get_nothing(door: Door, judge: Judge) -> None:
    judged = Judge(judge.public, judge.pages)
    complaints = _complaints(door, judged, made_by_hand())
    _report("made by hand", judged)
    assert complaints == []


def test_requests_of_random_tricks_get_nothing(door: Door, judge: Judge, secrets: Secrets) -> None:
    judged, chance = Judge(judge.public, judge.pages), random.Random(SEED)  # noqa: S311 (requests, no secrets)
    schema = door.ask("GET", "/api/openapi.json", headers=[login_header(secrets.basic_auth)])
    paths = [*CLOSED, *OPEN, *(f"/api{path}" for path in json.loads(schema.body)["paths"])]
    until = time.monotonic() + SECONDS / 5

    def requests() -> Iterator[tuple[str, bytes]]:
        while time.monotonic() < until:
            yield at_random(chance, paths)

    complaints = _complaints(door, judged, requests())
    _report(f"random tricks, seed {SEED}", judged)
    assert complaints == []


@pytest.mark.parametrize("path", SOCKETS)
def test_websockets_say_nothing_without_the_login(door: Door, secrets: Secrets, path: str) -> None:
    ask = {"type": "filter", "filter": {}}
    tokens = (None, "", "admin:guess", secrets.basic_auth[:-1], ["x"], {"x": 1}, 0, True)
    talks = [[ask], [{"type": "subscribe", "keys": ["x"], "client_id": "x"}], [[]], ["x"]]
    talks += [[{"type": "auth", "token": token}, ask] for token in tokens]
    for talk in talks:
        answer, said = converse(door, path, talk)
        assert answer.status == 101, talk
        assert b"auth_success" not in said, talk
        assert CANARY.encode() not in said
        assert said == b"" or closing_code(said) in {1008, 1011, 1012}, (talk, said)
    answer, _ = converse(door, path, [], protocol=None)
    assert answer.status == 403
    _, said = converse(door, path, [{"type": "auth", "token": secrets.basic_auth}])
    assert b"auth_success" in said


def test_events_are_not_taken_without_the_login(door: Door, api: PrefectApi) -> None:
    event = {
        "event": CANARY,
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "resource": {"prefect.resource.id": CANARY},
        "id": "11111111-1111-4111-8111-111111111111",
    }
    converse(door, "/api/events/in", [event, event])
    converse(door, "/api/events/in", [{"type": "auth", "token": "x"}, event, event])
    time.sleep(5)
    query = {"filter": {"event": {"name": [CANARY]}}}
    assert api.request("POST", "/events/filter", query)["events"] == []


def test_a_fuzzer_without_the_login_gets_nothing(door: Door, judge: Judge, secrets: Secrets, tmp_path: Path) -> None:
    schema = door.ask("GET", "/api/openapi.json", headers=[login_header(secrets.basic_auth)]).body
    fuzzed = fuzz(door, schema, tmp_path, seconds=SECONDS // 5, seed=SEED, canary=CANARY)
    report(f"the fuzzer without the login, seed {SEED}: {_counts(fuzzed.statuses)}")
    assert fuzzed.returncode in {0, 1}, fuzzed.output[-3000:]
    assert len(fuzzed.answers) > 100, fuzzed.output[-3000:]
    complaints = [
        f"{answer['method']} {answer['url'][:300]} was answered {answer['status']}: {complaint}"
        for answer in fuzzed.answers
        if (
            complaint := "says what is in the database"
            if answer["canary"]
            else judge.judge("", answer["method"], answer["status"], answer["headers"], answer["sha256"])
        )
    ]
    assert complaints == []


def test_a_fuzzer_with_the_login_stops_nothing(door: Door, secrets: Secrets, tmp_path: Path) -> None:
    schema = door.ask("GET", "/api/openapi.json", headers=[login_header(secrets.basic_auth)]).body
    seconds = SECONDS - 2 * (SECONDS // 5)
    fuzzed = fuzz(door, schema, tmp_path, seconds=seconds, seed=SEED, canary=CANARY, login=secrets.basic_auth)
    errors = Counter((answer["operation"], answer["status"]) for answer in fuzzed.answers if answer["status"] >= 500)
    operations = len({answer["operation"] for answer in fuzzed.answers})
    report(f"the fuzzer with the login, seed {SEED}: {operations} operations, {_counts(fuzzed.statuses)}")
    for (operation, status), count in errors.most_common():
        report(f"{status} of the server's own, {count} times: {operation}")
    assert fuzzed.returncode in {0, 1}, fuzzed.output[-3000:]
    assert any(200 <= status < 300 for status in fuzzed.statuses), fuzzed.output[-3000:]
    assert 401 not in fuzzed.statuses
    ours = [
        f"{answer['method']} {answer['url'][:300]} was answered {answer['status']}"
        for answer in fuzzed.answers
        if answer["status"] in {0, 502, 504} or "prefect-maintenance" in answer["headers"]
    ]
    assert ours == []


def _counts(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))


def test_no_process_ended(processes: dict[str, str], on: On) -> None:
    assert _processes(on) == processes
    assert on(SERVER).run("grep --quiet 'exited on signal' /var/log/nginx/error.log").rc == 1


def test_a_flow_runs_afterwards(machines: Machines, guide: Guide, api: PrefectApi) -> None:
    # Automations of the fuzzer's may cancel whatever runs.
    for automation in api.request("POST", "/automations/filter", {}):
        api.request("DELETE", f"/automations/{automation['id']}")
    playbooks.played(machines, "main.yml")
    outcome = guide.run(FLOWS)
    assert outcome.returncode == 0, outcome.output[-3000:]
    ended = api.wait(api.start("my-workflow/my_workflow"))
    assert ended["state_type"] == "COMPLETED"

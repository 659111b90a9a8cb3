"""Prefect's UI in a browser, as an operator sees it: through a tunnel to the controller, and asking nobody else."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Browser, browser
from cluster_site import Secrets
from machines import Machines
from netlog import Traffic
from prefect_api import PrefectApi
from scenario_log import report

POOLS = ("cpu-pool", "gpu-pool")
FLOWS = ("demo1", "my-workflow", "demo3")
"""The demo flows, by the names that they have in Prefect; each is deployed once."""


@dataclass
class Visit:
    """What was seen on the way, by page, and what the browser did on the network meanwhile."""

    pages: dict[str, str] = field(default_factory=dict)
    kept_in: dict[str, str] = field(default_factory=dict)
    uncaught: list[str] = field(default_factory=list)
    traffic: Traffic = field(default_factory=lambda: Traffic(frozenset(), frozenset(), frozenset()))


@pytest.fixture(scope="module")
def visit(machines: Machines, secrets: Secrets, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """One visit: log in, wrongly at first, then look at every page that operators use; pictures of them are kept."""
    pictures = tmp_path_factory.mktemp("ui")
    visit = Visit()
    with machines.tunnel() as port:
        address = f"http://localhost:{port}"
        run = _a_finished_run(PrefectApi(f"{address}/api", secrets.basic_auth))
        with browser() as chromium:

            def look(name: str, path: str, *expected: str) -> None:
                visit.pages[name] = chromium.open(f"{address}{path}", *expected)
                _take_picture(chromium, pictures / f"{name}.png")

            look("login", "/", "Login")
            chromium.log_in("admin:wrong")
            visit.pages["wrong login"] = chromium.wait_for("Invalid credentials")
            look("again", "/", "Login")
            chromium.log_in(secrets.basic_auth)
            visit.pages["home"] = chromium.wait_for("Dashboard", "Logout")
            look("dashboard", "/v2/dashboard", "Flow Runs")
            look("pools", "/v2/work-pools", *POOLS)
            look("deployments", "/v2/deployments", *FLOWS)
            look("runs", "/v2/runs", "Completed")
            look("run", f"/v2/runs/flow-run/{run['id']}", run["name"], "Finished in state Completed")
            for name in ("flows", "events", "automations", "concurrency-limits", "variables", "blocks", "settings"):
                look(name, f"/v2/{name}", "Logout")
        visit.kept_in, visit.uncaught, visit.traffic = chromium.kept_in, chromium.uncaught, chromium.traffic
    return visit


def _a_finished_run(api: PrefectApi) -> dict[str, str]:
    query = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "sort": "END_TIME_DESC", "limit": 1}
    runs: list[dict[str, str]] = api.request("POST", "/flow_runs/filter", query)
    return runs[0] if runs else api.wait(api.start("demo1/my_workflow"))


def _take_picture(chromium: Browser, path: Path) -> None:
    chromium.driver.save_screenshot(str(path))


def test_login_is_asked_for(visit: Visit) -> None:
    assert "Work Pools" not in visit.pages["login"]


def test_a_wrong_login_does_not_get_in(visit: Visit) -> None:
    assert "Work Pools" not in visit.pages["wrong login"]


def test_login_gets_in(visit: Visit) -> None:
    assert "Work Pools" in visit.pages["home"]


def test_both_pools_are_shown(visit: Visit) -> None:
    lines = visit.pages["pools"].splitlines()
    assert [line for line in lines if line in POOLS] == list(POOLS)


def test_all_deployments_are_shown(visit: Visit) -> None:
    lines = visit.pages["deployments"].splitlines()
    # A deployment's own name stands above its flow's.
    shown = {line: above for above, line in pairwise(line for line in lines if line.strip()) if line in FLOWS}
    assert shown == dict.fromkeys(FLOWS, "my_workflow")


def test_no_page_is_broken_by_the_policy(visit: Visit) -> None:
    """What the proxy's policy refuses are connections to others, never a script, style or picture of the UI's own."""
    assert {directive for directive in visit.kept_in.values() if directive != "connect-src"} == set()
    assert [error for error in visit.uncaught if "Uncaught" in error] == []


def test_no_other_host_is_asked(visit: Visit) -> None:
    report(f"The browser {visit.traffic}; its policy kept in {', '.join(sorted(visit.kept_in)) or 'nothing'}.")
    assert "localhost" in visit.traffic.requested
    assert visit.traffic.outside == []


PAGE = b"""<!DOCTYPE html><title>A page that asks the outside</title><body><p id=x>begun</p><script>
fetch("https://outside.invalid/x").catch(() => 0).then(() => document.getElementById("x").innerText = "asked")
</script>"""


@pytest.fixture(params=["free", "policy"])
def page(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    """The address of a page that asks another host, and whether a policy allows it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            if request.param == "policy":
                self.send_header("Content-Security-Policy", "connect-src 'self'")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/", request.param == "free"
        server.shutdown()


def test_a_page_that_asks_another_host_is_caught(page: tuple[str, bool]) -> None:
    """The check above can fail: the same browser reports a request to the outside, unless a policy kept it in."""
    address, free = page
    with browser() as chromium:
        chromium.open(address, "asked")
    assert ("outside.invalid" in chromium.traffic.requested) == free
    assert (chromium.traffic.outside == ["outside.invalid", "the sink"]) == free
    assert ("https://outside.invalid/x" in chromium.kept_in) == (not free)

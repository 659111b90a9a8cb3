"""Headless Chromium that keeps account of the network."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import netlog
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

# Against what Chromium itself would ask the outside for, at every start. Nothing here keeps a page from asking.
_QUIET = (
    "--disable-background-networking",
    "--disable-features=AutofillServerCommunication,NetworkTimeServiceQuerying,OptimizationHints",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # These two are asked all the same: here they are nobody.
    "--component-updater=url-source=http://localhost:1/",
    "--gaia-url=http://localhost:1/",
)
# Debian's start page is a search engine.
_START_EMPTY = {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]}

_VIOLATION = re.compile(
    r"'(?P<what>[^']+)' violates the following Content Security Policy directive: \"(?P<directive>\S+)"
)


class Browser:
    """A Chromium with an empty profile; :func:`browser` starts one."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.console: list[str] = []
        """What pages wrote to the console, and what Chromium wrote about them."""
        self.uncaught: list[str] = []
        """Errors of scripts that no page dealt with."""
        self._traffic: netlog.Traffic | None = None

    @property
    def traffic(self) -> netlog.Traffic:
        """What went over the network from start to end, by Chromium's own log."""
        if self._traffic is None:
            raise RuntimeError("The browser still runs: its network log is complete when its context is left.")
        return self._traffic

    @property
    def kept_in(self) -> dict[str, str]:
        """What a page's Content-Security-Policy refused: what it was, and the directive."""
        return {found["what"]: found["directive"] for text in self.console for found in _VIOLATION.finditer(text)}

    def open(self, address: str, *expected: str, seconds: float = 20, attempts: int = 3) -> str:
        """Open a page, wait until it shows every one of *expected*, and return its text.

        A page that does not within *seconds* is loaded again: Chromium drops what is under way whenever the machine's
        network interfaces change, which they do while machines of a testbed come and go.

        Raises AssertionError with what the page shows instead, after the last attempt.
        """
        for _ in range(attempts):
            self.driver.get(address)
            with contextlib.suppress(AssertionError):
                return self.wait_for(*expected, seconds=seconds)
        return self.wait_for(*expected, seconds=0)

    def wait_for(self, *expected: str, seconds: float = 20) -> str:
        """Wait until the page shows every one of *expected* and return its text, or raise AssertionError."""
        deadline = time.monotonic() + seconds
        while missing := [text for text in expected if text not in self.text()]:
            assert time.monotonic() < deadline, f"{self.driver.current_url} lacks {missing} but shows: {self.text()!r}"
            time.sleep(0.2)
        # What a page asks for after it is shown counts too.
        time.sleep(1)
        self._take_logs()
        return self.text()

    def text(self) -> str:
        """Return what a reader sees on the page."""
        script = "return document.body ? document.body.innerText : ''"
        return str(self.driver.execute_script(script))

    def log_in(self, password: str) -> None:
        """Fill in Prefect's login page, and send it."""
        self.driver.find_element(By.CSS_SELECTOR, "input[type=password]").send_keys(password)
        self.driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()

    def _take_logs(self) -> None:
        for entry in self.driver.get_log("browser"):  # type: ignore[no-untyped-call]
            self.console.append(entry["message"])
            if entry["source"] == "javascript" and entry["level"] == "SEVERE":
                self.uncaught.append(entry["message"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start a headless Chromium; at the end, end it, remove its profile and read its network log.

    Every host but localhost resolves to a port of this machine where everything is hung up at once. So nothing leaves
    this machine, and a request to the outside goes as far here as it does on a desk with Internet: it is in the log
    and not lost in a lookup that fails.
    """
    chromium, chromedriver = _program("chromium"), _program("chromedriver")
    with tempfile.TemporaryDirectory(prefix="pag-browser-") as name, _sink() as sink:
        directory = Path(name)
        log = directory / "netlog.json"
        options = ChromeOptions()
        options.binary_location = chromium
        for argument in (
            "--headless=new",
            "--window-size=1400,1000",
            f"--user-data-dir={directory / 'profile'}",
            f"--log-net-log={log}",
            f"--host-resolver-rules=MAP * 127.0.0.1:{sink}, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            *_QUIET,
        ):
            options.add_argument(argument)
        if os.geteuid() == 0:
            # Chromium refuses to run its sandbox as root.
            options.add_argument("--no-sandbox")
        options.add_experimental_option("prefs", _START_EMPTY)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Both paths are given, so that Selenium looks for nothing and downloads nothing.
        driver = Chrome(options=options, service=ChromeService(executable_path=chromedriver))
        session = Browser(driver)
        try:
            yield session
        finally:
            driver.quit()
        session._traffic = netlog.read(log, sink=sink)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is missing: install Debian's packages chromium and chromium-driver.")
    return path


@contextlib.contextmanager
def _sink() -> Iterator[int]:
    """Listen on a free port of this machine, hang up on everybody, and give the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

#!/usr/bin/env python3
"""Wait until the Prefect server answers, then become the given program: ``prefect-when-ready PROGRAM ARGUMENT...``.

A worker that finds no server ends; systemd would start it over and over. This waits, and says so in the journal.
"""

import os
import ssl
import sys
import time
import urllib.error
import urllib.request

_PAUSE_SECONDS = 2.0
_REPORT_SECONDS = 60.0
_ANSWER_SECONDS = 10.0


def answer(url: str) -> str | None:
    """Return None when the server at *url* is healthy, else what happens instead."""
    try:
        # Read anew each time: the authorities may be renewed meanwhile.
        context = ssl.create_default_context(cafile=os.environ.get("PREFECT_API_SSL_CERT_FILE"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(url, timeout=_ANSWER_SECONDS) as response:
            return None if response.status == 200 else f"status {response.status}"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (urllib.error.URLError, OSError) as error:
        return str(getattr(error, "reason", error))


def wait_for(url: str) -> None:
    """Return once the server at *url* is healthy."""
    last_report = -_REPORT_SECONDS
    waited = False
    while (problem := answer(url)) is not None:
        waited = True
        if time.monotonic() - last_report >= _REPORT_SECONDS:
            print(f"Waiting for the Prefect server: {url} does not answer ({problem}).", flush=True)
            last_report = time.monotonic()
        time.sleep(_PAUSE_SECONDS)
    if waited:
        print("The Prefect server answers.", flush=True)


def main() -> None:
    """Wait, then run the program in place of this one."""
    program = sys.argv[1:]
    if not program:
        sys.exit("Usage: prefect-when-ready PROGRAM ARGUMENT...")
    wait_for(os.environ["PREFECT_API_URL"].rstrip("/") + "/health")
    os.execvp(program[0], program)  # noqa: S606 (the unit's own arguments)


if __name__ == "__main__":
    main()

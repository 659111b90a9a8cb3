"""The API fuzzer's side: it loads this file, in its own environment, and every answer is written down.

``PAG_FUZZ_ANSWERS`` is the file to write into, a line of JSON for each answer; ``PAG_FUZZ_CANARY`` is a word in the
database, which nobody without the login may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import schemathesis

_ANSWERS = Path(os.environ["PAG_FUZZ_ANSWERS"])
_CANARY = os.environ["PAG_FUZZ_CANARY"].encode()
_lock = threading.Lock()


def _write(**answer: Any) -> None:
    with _lock, _ANSWERS.open("a") as stream:
        stream.write(json.dumps(answer) + "\n")


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Write an answer down."""
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    _write(
        operation=case.operation.label,
        url=response.request.url,
        method=response.request.method,
        status=response.status_code,
        headers=headers,
        sha256=hashlib.sha256(response.content).hexdigest(),
        canary=_CANARY in response.content,
    )


@schemathesis.hook
def after_network_error(context: Any, case: Any, request: Any) -> None:
    """Write down that no answer came."""
    _write(
        operation=case.operation.label,
        url=request.url,
        method=request.method,
        status=0,
        headers={},
        sha256="",
        canary=False,
    )


@schemathesis.check
def the_proxy_had_an_answer(ctx: Any, response: Any, case: Any) -> None:
    """Fail on what the proxy says when the server says nothing; the fuzzer's own checks are not wanted."""
    if response.status_code in {502, 504} or "prefect-maintenance" in {name.lower() for name in response.headers}:
        raise AssertionError(f"The proxy answered {response.status_code} for the server.")

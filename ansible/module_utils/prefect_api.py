"""A client of Prefect's REST API for Ansible modules: the node's own Python and the standard library suffice.

Prefect 3's API: https://docs.prefect.io/v3/api-ref/rest-api. Paths below are relative to the API's address, which ends
in ``/api``.
"""

from __future__ import annotations

import base64
import json
import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import BaseHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

API_ARGUMENTS: dict[str, dict[str, Any]] = {
    "api_url": {"type": "str", "required": True},
    "api_auth": {"type": "str", "required": True, "no_log": True},
    "api_timeout": {"type": "float", "default": 20.0},
}
"""Arguments that every module that talks to the server shares; ``api_timeout`` is in seconds."""


class PrefectApiError(Exception):
    """The server refused a request; the message is one sentence for the operator."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status of the answer; None when there was none."""


class PrefectUnreachableError(PrefectApiError):
    """Nothing answered at the API's address, or only the proxy in front of it did."""


AUTHORITIES = "/etc/pag/ca.crt"
"""What every machine of a cluster verifies the server with (role certificates)."""

# What the proxy answers while the server behind it is down.
_GATEWAY_STATUSES = (502, 503, 504)


class PrefectApi:
    """Prefect's REST API at one address."""

    def __init__(self, url: str, auth: str, timeout: float = 20.0, authorities: str = AUTHORITIES) -> None:
        """Take the address (ends in ``/api``), the login ``user:password``, the seconds to wait, whom to trust."""
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(auth.encode()).decode(),
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        self._authorities = authorities

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> PrefectApi:
        """Return the client that a module's parameters (API_ARGUMENTS) describe."""
        return cls(parameters["api_url"], parameters["api_auth"], parameters["api_timeout"])

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the decoded answer, None for an empty one.

        Raises PrefectUnreachableError when no server answers, PrefectApiError when it refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data=data, headers=self._headers, method=method)  # noqa: S310 (http)
        opener = self._opener()
        try:
            with opener.open(request, timeout=self._timeout) as response:
                content = response.read()
        except HTTPError as error:
            raise self._refusal(method, path, error.code, _rest(error)) from error
        # HTTPException: an answer that was cut off, or is none.
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise PrefectUnreachableError(
                f"The Prefect server at {self._url} does not answer ({reason}): look at prefect-server.service on the "
                "server, and whether this node may reach it."
            ) from error
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise PrefectApiError(
                f"What answers at {self._url}{path} is no Prefect server: check prefect_api_url."
            ) from error

    def _opener(self) -> OpenerDirector:
        """Return what opens addresses; the authorities are read anew, because they are renewed while workers run."""
        # The cluster is its own network: a proxy that the node's environment names does not lead to it.
        handlers: list[BaseHandler] = [ProxyHandler({})]
        if self._url.startswith("https:"):
            try:
                handlers.append(HTTPSHandler(context=ssl.create_default_context(cafile=self._authorities)))
            except OSError as error:
                # In check mode before the first run there is neither a server nor this file.
                raise PrefectUnreachableError(
                    f"The Prefect server at {self._url} cannot be verified: {self._authorities} cannot be read "
                    f"({error.strerror or error}); run main.yml for this machine."
                ) from error
        return build_opener(*handlers)

    def get(self, path: str) -> Any:
        """Return what is at *path*, None when nothing is there. Errors as in :meth:`request`."""
        try:
            return self.request("GET", path)
        except PrefectApiError as error:
            if error.status == 404:
                return None
            raise

    def _refusal(self, method: str, path: str, status: int, content: bytes) -> PrefectApiError:
        if status in _GATEWAY_STATUSES:
            return PrefectUnreachableError(
                f"The Prefect server behind {self._url} does not answer (status {status}): look at "
                "prefect-server.service on the server.",
                status,
            )
        if status == 401:
            return PrefectApiError(
                f"The Prefect server at {self._url} refuses the login: prefect_basic_auth_key is not the one that it "
                "was started with.",
                status,
            )
        return PrefectApiError(
            f"The Prefect server refuses {method} {path} (status {status}): {_detail(content)}", status
        )


def quoted(name: str) -> str:
    """Return *name* as one segment of a path."""
    return quote(name, safe="")


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of *wanted* that *found* does not have in the same way."""
    return {key: value for key, value in wanted.items() if found.get(key) != value}


def _rest(error: HTTPError) -> bytes:
    """Return what came with a refusal; nothing when it was cut off."""
    try:
        return bytes(error.read())
    except (OSError, HTTPException):
        return b""


def _detail(content: bytes) -> str:
    """Return what an answer with an error says, in one line."""
    text = content.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        invalid = document.get("exception_detail")
        if isinstance(invalid, list) and invalid:
            messages = sorted({str(entry.get("msg")) for entry in invalid if isinstance(entry, dict)})
            text = "; ".join(messages)
        else:
            text = str(document.get("detail") or document.get("exception_message") or text)
    return " ".join(text.split())[:500]

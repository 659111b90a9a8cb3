"""HTTP sessions that go the way a network says."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from ssl import SSLContext
from threading import Lock
from typing import Any

import requests
from requests.utils import should_bypass_proxies
from urllib3.util import create_urllib3_context

from airgap.credentials import StoredCredentials


class Session(requests.Session):
    """A session that prefers what it was given to the environment's variables; requests has it the other way round."""

    def __init__(
        self,
        connections: int,
        certificates: str | None,
        client_certificate: str | None,
        proxies: Mapping[str, str],
        no_proxy: Sequence[str],
    ) -> None:
        """Make a session for that many threads at once; *certificates* are those of authorities."""
        super().__init__()
        self._certificates = certificates
        self._no_proxy = ",".join(no_proxy)
        self._own_proxies = proxies
        adapter = _Adapter(pool_connections=connections, pool_maxsize=connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self.auth = StoredCredentials()
        if client_certificate:
            self.cert = client_certificate

    def merge_environment_settings(
        self, url: Any, proxies: MutableMapping[str, str] | None, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Return the settings for a request to *url*."""
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self._certificates:
            merged["verify"] = self._certificates
        if self._own_proxies:
            merged["proxies"] = self._proxies(str(url))
        return merged

    def rebuild_proxies(self, prepared_request: Any, proxies: Any) -> Any:
        """Return the proxies for a request that follows a redirect."""
        # requests would look at the environment again.
        rebuilt: Any = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]
        return self._proxies(str(prepared_request.url)) if self._own_proxies else rebuilt

    def _proxies(self, url: str) -> dict[str, str]:
        """Return the proxies for *url*: none where the operator's list or the variable ``no_proxy`` says so."""
        if should_bypass_proxies(url, None) or (self._no_proxy and should_bypass_proxies(url, self._no_proxy)):
            return {}
        return dict(self._own_proxies)


class _Adapter(requests.adapters.HTTPAdapter):
    """Reads the authorities' certificates once: for each connection anew, that takes longer than all else of it."""

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Tell the pool of connections *conn* which certificates to trust."""
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        # A client's own certificate, and a proxy that speaks TLS itself, are left as they are.
        if cert or (conn.proxy is not None and conn.proxy.scheme == "https"):
            return
        if conn.ca_certs or conn.ca_cert_dir:
            try:
                conn.conn_kw["ssl_context"] = _context(conn.ca_certs, conn.ca_cert_dir)
            except OSError as error:
                raise requests.exceptions.SSLError(error) from error
            conn.ca_certs = conn.ca_cert_dir = None


_reading = Lock()


def _context(file: str | None, directory: str | None) -> SSLContext:
    """Return what trusts the authorities whose certificates are in *file* or in *directory*."""
    # Many threads want it at once in the beginning: one reads, the others wait.
    with _reading:
        return _read_context(file, directory)


@lru_cache
def _read_context(file: str | None, directory: str | None) -> SSLContext:
    context = create_urllib3_context()
    context.load_verify_locations(file, directory)
    return context

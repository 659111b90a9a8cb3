"""Requests that try to get past the proxy's login: made by hand, and by putting tricks together at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from raw_http import request, upgrade

CLOSED = (
    "/api/admin/settings",
    "/api/admin/version",
    "/api/flows/filter",
    "/api/variables/filter",
    "/api/events/filter",
    "/api/metrics",
    "/api/docs",
    "/api/openapi.json",
    "/api/static/prefect-logo-mark-gradient.png",
    "/api/collections/views/aggregate-worker-metadata",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
)
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get", "FOO")

Trick = Callable[[str], str]


def _encoded(path: str) -> str:
    return "/" + "".join(letter if letter == "/" else f"%{ord(letter):02x}" for letter in path[1:])


def _twice(path: str) -> str:
    return _encoded(path).replace("%", "%25")


TRICKS: tuple[Trick, ...] = (
    lambda path: path,
    lambda path: "/" + path,
    lambda path: "///" + path,
    lambda path: "/." + path,
    lambda path: "/%2e" + path,
    lambda path: "/x/.." + path,
    lambda path: "/x/%2e%2e" + path,
    lambda path: "/.." + path,
    lambda path: "/..%2f" + path[1:],
    lambda path: "/%2f" + path[1:],
    lambda path: "/index.html/.." + path,
    lambda path: "/api/health/../.." + path,
    lambda path: "/api/health/%2e%2e/%2e%2e" + path,
    lambda path: "/api/health/..;/.." + path,
    lambda path: "/api/../" + path[1:],
    lambda path: "/api" + path,
    lambda path: "/v2" + path,
    lambda path: path + "/",
    lambda path: path + "//",
    lambda path: path + "/.",
    lambda path: path + "/x/..",
    lambda path: path + ";x",
    lambda path: path + ";/api/health",
    lambda path: path + "%3bx",
    lambda path: path + "?/api/health",
    lambda path: path + "%3f/api/health",
    lambda path: path + "#/api/health",
    lambda path: path + "%23",
    lambda path: path + "%00",
    lambda path: path + "%0a",
    lambda path: path + "%0d%0aX:%20y",
    lambda path: path + "%20",
    lambda path: path + "%09",
    lambda path: path + "%2f",
    lambda path: path + ".css",
    lambda path: path + "/..%2f..%2f..%2f..%2findex.html",
    lambda path: path + "/../../../../index.html",
    lambda path: path + "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/index.html",
    lambda path: path + "/../../../../api/health",
    lambda path: path + "%2f..%2f..%2f..%2fapi%2fhealth",
    lambda path: path.replace("/", "//"),
    lambda path: path.replace("/", "/./"),
    lambda path: path.replace("/", "/%2e/"),
    lambda path: path.replace("/", "\\"),
    lambda path: path.replace("/", "/\\"),
    lambda path: path.replace("/", "%5c"),
    lambda path: path.replace("/", "%2f"),
    lambda path: path.replace("/", "%252f"),
    lambda path: path.replace("/", "%c0%af"),
    lambda path: path.replace("/", "%ef%bc%8f"),
    lambda path: path.replace("/", "/%20", 1),
    lambda path: path.replace("/api", "/api;x", 1),
    lambda path: path.replace("/api", "/api%20", 1),
    lambda path: path.replace("/api", "/api%00", 1),
    lambda path: path.replace("/api", "/api.", 1),
    str.upper,
    str.title,
    _encoded,
    _twice,
    lambda path: path.replace("i", "%69").replace("o", "%6f"),
    lambda path: "http://elsewhere.example" + path,
    lambda path: "https://pag-server:4200" + path,
    lambda path: "http://pag-server:4200/api/health" + path,
    lambda path: path[1:],
    lambda path: "@elsewhere.example" + path,
    lambda path: "//elsewhere.example" + path,
    lambda path: "//elsewhere.example/%2e%2e" + path,
)

# Names that UIs and their servers' files have, where a server may answer with a redirection.
OPEN = (
    "/",
    "/v2",
    "/v2/",
    "/assets",
    "/v2/assets",
    "/ui-settings",
    "/api",
    "/api/",
    "/api/health",
    "/api/ready",
    "/login",
)
OPEN_TRICKS: tuple[Trick, ...] = (
    *TRICKS,
    lambda path: "//elsewhere.example/.." + path,
    lambda path: "/\\elsewhere.example/.." + path,
    lambda path: "//elsewhere.example/x/..%2f.." + path,
)

_GUESS = "Basic YWRtaW46Z3Vlc3M="
HEADERS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("X-Original-URL", "/api/health"),),
    (("X-Rewrite-URL", "/api/health"),),
    (("X-Forwarded-For", "127.0.0.1"),),
    (("X-Forwarded-Prefix", "/api/health"),),
    (("X-Forwarded-Host", "localhost"), ("X-Forwarded-Proto", "http")),
    (("X-HTTP-Method-Override", "OPTIONS"),),
    (("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1;host=localhost")),
    (("Authorization", ""),),
    (("Authorization", "Basic"),),
    (("Authorization", "Basic  "),),
    (("Authorization", "Basic ="),),
    (("Authorization", "Bearer x"),),
    (("Authorization", _GUESS), ("Authorization", _GUESS)),
    (("Authorization", ""), ("Authorization", _GUESS)),
    (("Authorization", f"{_GUESS}, {_GUESS}"),),
    (("Authorization ", _GUESS),),
    (("Authorization", f"Basic\r\n {_GUESS[6:]}"),),
    (("HTTP_AUTHORIZATION", _GUESS), ("Authorization_", _GUESS)),
    (("Proxy-Authorization", _GUESS),),
    (("Connection", "Authorization, X-Forwarded-For"),),
    (("Connection", "upgrade"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")),
    (("Connection", "upgrade"), ("Upgrade", "TLS/1.3")),
    (("Connection", "upgrade"), *upgrade()),
    (("Connection", "upgrade"), *upgrade(None)),
    (("Sec-Fetch-Site", "cross-site"), ("Origin", "https://elsewhere.example")),
    (("Cookie", "prefect_ui_version=v1; " + "x" * 3000),),
    (("Range", "bytes=0-10"),),
    (("If-None-Match", "*"),),
    (("TE", "trailers"), ("Trailer", "Authorization")),
    (("Accept", "text/html"), ("Accept-Encoding", "identity;q=1, *;q=0")),
    (("Host", "elsewhere.example"),),
    (("Content-Length", "-1"),),
    (("Content-Length", "0"), ("Content-Length", "1")),
    (("X-Prefect-API-Version", "\x00"),),
    (("X", "y" * 60000),),
    tuple(("X", "y" * 100) for _ in range(500)),
    tuple((f"X-{index}", "y") for index in range(1000)),
)

_INSIDE = request("GET", "/api/admin/settings")
_CHUNK = b"0\r\n\r\n"


def _smuggled(first: str, *lines: str) -> bytes:
    return "\r\n".join([f"{first} HTTP/1.1", "Host: pag-server", *lines, "", ""]).encode("latin-1")


WHOLE: tuple[bytes, ...] = (
    b"GET /api/admin/settings\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.0\r\n\r\n",
    b"GET /openapi.json HTTP/1.0\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\n\r\n",
    b"GET /api/admin/settings HTTP/0.9\r\n\r\n",
    b"GET /api/admin/settings HTTP/2.0\r\nHost: pag-server\r\n\r\n",
    b"GET /api/admin/settings HTTP/3.1\r\nHost: pag-server\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\nHost: pag-server\nConnection: close\n\n",
    b"\r\n\r\nGET /api/admin/settings HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"GET\t/api/admin/settings\tHTTP/1.1\r\nHost: pag-server\r\n\r\n",
    b"GET  /api/admin/settings  HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"GET /api/health /api/admin/settings HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\nHost: elsewhere.example\r\nHost: pag-server\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\nHost: pag-server/api/health?\r\nConnection: close\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\nHost: 127.0.0.1:4201\r\nConnection: close\r\n\r\n",
    b"GET /api/admin/settings HTTP/1.1\r\nHost: unix:/run/docker.sock\r\nConnection: close\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"OPTIONS * HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"CONNECT 127.0.0.1:4201 HTTP/1.1\r\nHost: 127.0.0.1:4201\r\n\r\n" + _INSIDE,
    b"CONNECT /api/admin/settings HTTP/1.1\r\nHost: pag-server\r\n\r\n",
    b"GET /api/" + b"x" * 70000 + b" HTTP/1.1\r\nHost: pag-server\r\n\r\n",
    b"GET /" + b"../" * 5000 + b"api/admin/settings HTTP/1.1\r\nHost: pag-server\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 1000,
    # Two requests in one connection, and bodies of which two programs could take a different part for the second one.
    request("GET", "/api/health").replace(b"Connection: close\r\n", b"") + _INSIDE,
    _smuggled("POST /api/health", "Content-Length: 5", "Transfer-Encoding: chunked") + _CHUNK + _INSIDE,
    _smuggled("POST /api/health", "Transfer-Encoding: chunked", "Content-Length: 5") + _CHUNK + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: chunked") + _CHUNK + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: identity", f"Content-Length: {len(_INSIDE)}") + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: \x0bchunked", f"Content-Length: {len(_INSIDE)}") + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: chunked, identity") + _CHUNK + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: xchunked", f"Content-Length: {len(_INSIDE)}") + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: chunked", "Transfer-Encoding: x") + _CHUNK + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding : chunked") + _CHUNK + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: chunked") + b"0;x=\n\r\n\r\n" + _INSIDE,
    _smuggled("POST /", "Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n" + _INSIDE,
    _smuggled("GET /api/health", f"Content-Length: {len(_INSIDE)}") + _INSIDE,
    _smuggled("GET /api/health", "Content-Length: 0x10") + _INSIDE,
    _smuggled("GET /api/health", "Content-Length: +5") + _INSIDE,
    _smuggled("POST /", "Expect: 100-continue", f"Content-Length: {len(_INSIDE)}") + _INSIDE,
    # Websockets that were refused, or never asked for, and a request behind them.
    _smuggled("GET /api/events/in", "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 1") + _INSIDE,
    _smuggled("GET /api/events/out", "Connection: upgrade", "Upgrade: websocket") + _INSIDE,
    _smuggled("GET /api/health", "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13") + _INSIDE,
    _smuggled("GET /", "Connection: upgrade", "Upgrade: h2c") + _INSIDE,
)


def made_by_hand() -> Iterator[tuple[str, bytes]]:
    """Yield method and bytes of every combination that is worth it."""
    for path in CLOSED:
        for trick in TRICKS:
            yield "GET", request("GET", trick(path))
            yield "POST", request("POST", trick(path), body=b"{}")
        for method in METHODS:
            yield method, request(method, path)
    for path in OPEN:
        for trick in OPEN_TRICKS:
            yield "GET", request("GET", trick(path))
            yield "GET", request("GET", trick(path), headers=[("Accept", "text/html")])
        for method in METHODS:
            yield method, request(method, path)
    for headers in HEADERS:
        for path in ("/api/admin/settings", "/openapi.json", "/api/events/in", "/"):
            yield "GET", request("GET", path, headers=headers)
    for whole in WHOLE:
        yield "GET", whole


def at_random(chance: random.Random, paths: list[str]) -> tuple[str, bytes]:
    """Return method and bytes of a request that up to four tricks were played with."""
    path = chance.choice(paths)
    for _ in range(chance.randint(1, 4)):
        path = chance.choice(OPEN_TRICKS)(path)
        if chance.random() < 0.3:
            at = chance.randrange(len(path) + 1)
            path = path[:at] + chance.choice(_PIECES) + path[at:]
    method = chance.choice(METHODS) if chance.random() < 0.4 else "GET"
    headers = chance.choice(HEADERS) if chance.random() < 0.3 else ()
    version = chance.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"))
    body = b"{}" if method in {"POST", "PUT", "PATCH"} else b""
    # A line's end would make it another request.
    path = path.replace("\r", "%0d").replace("\n", "%0a")
    return method, request(method, path or "/", version=version, headers=headers, body=body)


_PIECES = (
    "%",
    "%2",
    "%2f",
    "%2e",
    "..",
    "/",
    "//",
    ";",
    "?",
    "#",
    "%00",
    "%0a",
    "\\",
    "\xff",
    "%ff",
    " ",
    "\t",
    ":",
    "@",
    "*",
    "&",
)

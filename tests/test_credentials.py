"""Credentials: found where the clients keep them, and sent to nobody else."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest
import requests
from servers import serve

from airgap.credentials import StoredCredentials
from airgap.network import Network


def basic(login: str, password: str) -> str:
    return f"Basic {b64encode(f'{login}:{password}'.encode()).decode()}"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredCredentials:
    (tmp_path / "netrc").write_text("machine both.invalid login netrc password n\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    pixi = tmp_path / "credentials.json"
    entries = {
        "both.invalid": {"BearerToken": "not-taken"},
        "*.prefix.invalid": {"BearerToken": "b3arer"},
        "quetz.invalid": {"CondaToken": "c0nda"},
        "basic.invalid": {"BasicHTTP": {"username": "me", "password": "p1xi"}},
        "s3.invalid": {"S3Credentials": {"access_key_id": "x"}},
    }
    pixi.write_text(json.dumps(entries))
    parts = tmp_path / "apt" / "auth.conf.d"
    parts.mkdir(parents=True)
    (tmp_path / "apt" / "auth.conf").write_text("machine apt.invalid/debian login a password pt\n")
    (parts / "more.conf").write_text("machine http://plain.invalid login b password pt\n")
    (parts / "broken.conf").write_text("machine\n")
    return StoredCredentials(pixi, tmp_path / "apt")


def sent(stored: StoredCredentials, url: str) -> tuple[str, str | None]:
    request = requests.Request("GET", url, auth=stored).prepare()
    return str(request.url), request.headers.get("Authorization")


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://me:own@both.invalid/x", basic("me", "own")),
        ("https://both.invalid/x", basic("netrc", "n")),
        ("https://repo.prefix.invalid/x", "Bearer b3arer"),
        ("https://basic.invalid/x", basic("me", "p1xi")),
        ("https://apt.invalid/debian/pool/x.deb", basic("a", "pt")),
        ("https://apt.invalid/other", None),
        ("http://apt.invalid/debian/x", None),
        ("http://plain.invalid/x", basic("b", "pt")),
        ("https://plain.invalid/x", None),
        ("https://s3.invalid/x", None),
        ("https://elsewhere.invalid/x", None),
    ],
)
def test_each_store_for_its_hosts(stored: StoredCredentials, url: str, header: str | None) -> None:
    assert sent(stored, url)[1] == header


def test_a_conda_token_goes_into_the_path(stored: StoredCredentials) -> None:
    assert sent(stored, "https://quetz.invalid/forge/noarch/x.conda") == (
        "https://quetz.invalid/t/c0nda/forge/noarch/x.conda",
        None,
    )


def test_stores_that_are_not_there_or_damaged_count_as_empty(tmp_path: Path, stored: StoredCredentials) -> None:
    (tmp_path / "bad.json").write_text("[")
    for pixi in (tmp_path / "none.json", tmp_path / "bad.json"):
        assert sent(StoredCredentials(pixi, tmp_path / "none"), "https://basic.invalid/x")[1] is None


def test_a_redirect_does_not_take_them_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(files={"/b": b"b"}) as other, serve(redirects={"/a": f"{other.url}/b"}) as server:
        answer = Network().session(1).get(f"{server.url.replace('127.0.0.1', 'localhost')}/a", timeout=5)
    assert answer.content == b"b"
    assert "authorization" in server.requests[0][1]
    assert "authorization" not in other.requests[0][1]

"""Host keys: what is new, known or changed."""

from __future__ import annotations

import pytest
import ssh_host_keys

ED, OTHER = {"ssh-ed25519": "AAAA1"}, {"ssh-ed25519": "AAAA2"}


@pytest.mark.parametrize(("port", "form"), [(22, "node"), (2222, "[node]:2222")])
def test_hosts_are_called_as_in_the_file(port: int, form: str) -> None:
    assert ssh_host_keys.form("node", port) == form


def test_markers_and_comments_are_no_keys() -> None:
    text = "# node:22 SSH-2.0\n@revoked node ssh-rsa BBBB\nnode ssh-ed25519 AAAA1 made by hand\n\n"
    assert ssh_host_keys.keys_of(text) == ED


@pytest.mark.parametrize(
    ("scanned", "known", "status"),
    [
        ({}, ED, "silent"),
        (ED, {}, "new"),
        (ED, ED, "known"),
        (ED | {"ssh-rsa": "BBBB"}, ED, "known"),
        (OTHER, ED, "changed"),
        # Keys of other kinds alone prove nothing.
        ({"ssh-rsa": "BBBB"}, ED, "new"),
    ],
)
def test_a_changed_key_is_noticed(scanned: dict[str, str], known: dict[str, str], status: str) -> None:
    assert ssh_host_keys.status(scanned, known) == status


def test_only_what_the_file_lacks_is_added() -> None:
    assert ssh_host_keys.rewritten("a ssh-rsa X", ["a ssh-rsa X", "b ssh-rsa Y"]) == "a ssh-rsa X\nb ssh-rsa Y\n"

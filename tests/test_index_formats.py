"""What is written into an index is read from it again, and the same entries give the same bytes."""

from __future__ import annotations

import pytest

from airgap.index_formats import (
    parse_packages,
    parse_project,
    parse_repodata,
    render_packages,
    render_project,
    render_projects,
    render_release,
    render_repodata,
    sha256_of_stanza,
)

DIGEST = "0123456789abcdef" * 4


def test_pages_of_projects() -> None:
    files = {"b-1+local-py3-none-any.whl": DIGEST, "a-1-py3-none-any.whl": "f" * 64}
    page = render_project(files)
    assert parse_project(page.decode()) == files
    assert page == render_project(dict(reversed(files.items())))
    assert b"../../b-1%2Blocal-py3-none-any.whl#sha256=" in page
    assert render_projects(["b", "a"]) == render_projects(["a", "b"])


def test_repodata_has_both_formats_of_packages() -> None:
    records = {"b-1-0.conda": {"name": "b"}, "a-1-0.tar.bz2": {"name": "a"}}
    text = render_repodata("noarch", records)
    assert parse_repodata(text.decode()) == records
    assert text == render_repodata("noarch", dict(reversed(records.items())))
    with pytest.raises(KeyError):
        parse_repodata("{}")


def test_stanzas_keep_their_text() -> None:
    stanzas = {
        f"{name}_1_all.deb": f"Package: {name}\nConffiles:\n /etc/x 0\nFilename: {name}_1_all.deb\nSHA256: {DIGEST}\n"
        for name in ("b", "a")
    }
    text = render_packages(stanzas)
    assert parse_packages(text.decode()) == stanzas
    assert text == render_packages(dict(reversed(stanzas.items())))
    assert sha256_of_stanza(stanzas["a_1_all.deb"]) == DIGEST
    assert sha256_of_stanza("Package: a\n") is None
    assert f"{len(text)} Packages" in render_release("t", text).decode()

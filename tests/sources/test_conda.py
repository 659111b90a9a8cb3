from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers import serve
from test_locks import CHANNEL, COWPY, PYTHON, WHEEL, conda, pypi, write_lock

from airgap.cache import Cache
from airgap.errors import LockError
from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.sources.conda import CondaExtra, CondaSource
from airgap.sources.interface import Download
from airgap.system_python import system_python_package
from airgap.targets import parse_target

TARGET = parse_target("debian-12")
TOKEN_CHANNEL = "https://channels.example/t/tk-123/private/linux"


def needing(url: str, dependency: str) -> str:
    return conda(url).replace("depends: []", f"depends:\n  - {dependency}")


def test_resolves_to_downloads_below_the_mirror(tmp_path: Path) -> None:
    locked = CondaSource({}).resolve(write_lock(tmp_path, conda(PYTHON), conda(COWPY), pypi(WHEEL)), "default", TARGET)
    assert locked.python == "3.12.11"
    downloads = {download.name: download for download in (*locked.conda, *locked.wheels)}
    assert downloads["python"].path == "mirror/conda/linux-64/python-3.12.11-h9e4cc4f_0_cpython.conda"
    assert downloads["python"].url == PYTHON
    assert (downloads["python"].licence, downloads["python"].size) == ("MIT", 10)
    assert downloads["cowpy"].path == "mirror/conda/noarch/cowpy-1.1.5-pyhd8ed1ab_2.conda"
    assert downloads["attrs"].path == "mirror/pypi/attrs-25.1.0-py3-none-any.whl"
    assert downloads["attrs"].kind == "wheel"


@pytest.mark.parametrize("name", ["conda-forge", CHANNEL, f"{CHANNEL}/"])
def test_takes_channels_from_where_they_are_mapped_to(tmp_path: Path, name: str) -> None:
    source = CondaSource({name: ["file:///srv/channel/"]})
    lock = write_lock(tmp_path, conda(PYTHON))
    (python,) = source.resolve(lock, "default", TARGET).conda
    assert python.url == "file:///srv/channel/linux-64/python-3.12.11-h9e4cc4f_0_cpython.conda"
    assert source.channels_of([lock, lock]) == [CHANNEL]


def test_leaves_other_channels_where_they_are(tmp_path: Path) -> None:
    lock = write_lock(tmp_path, conda(PYTHON))
    assert CondaSource({"forge": ["file:///srv/channel"]}).resolve(lock, "default", TARGET).conda[0].url == PYTHON


def test_a_token_is_used_and_goes_nowhere_else(tmp_path: Path) -> None:
    url = f"{TOKEN_CHANNEL}/linux-64/python-3.12.11-h9e4cc4f_0_cpython.conda"
    lock = write_lock(tmp_path, conda(url), channel=TOKEN_CHANNEL)
    source = CondaSource({})
    (python,) = source.resolve(lock, "default", TARGET).conda
    assert python.url == url
    (index,) = [file for file in source.index([python]) if "linux-64" in file.path]
    for text in (python.path, python.display_name, json.dumps(dict(python.record or {})), index.content.decode()):
        assert "tk-123" not in text
    (python,) = CondaSource({"linux": ["file:///srv/private"]}).resolve(lock, "default", TARGET).conda
    assert python.url.startswith("file:///srv/private/")


def test_a_channel_that_does_not_answer_is_named_without_its_token() -> None:
    reason = CondaSource({}).answers("http://127.0.0.1:9/t/tk-123/private", 1.0)
    assert reason == "the channel http://127.0.0.1:9/t/***/private does not answer (no connection)"


def test_asks_the_channel_for_its_index() -> None:
    with serve() as server:
        server.files["/forge/noarch/repodata.json"] = b"{}"
        assert CondaSource({}).answers(f"{server.url}/forge", 5.0) is None
        assert "status 404" in (CondaSource({}).answers(f"{server.url}/other", 5.0) or "")


def test_a_login_page_is_no_channel() -> None:
    name = "/forge/noarch/repodata.json"
    with serve() as server:
        server.files |= {name: b"<html>", f"{name}.zst": b"<html>"}
        server.content_types |= {name: "text/html", f"{name}.zst": "text/html"}
        assert "does not answer as one" in (CondaSource({}).answers(f"{server.url}/forge", 5.0) or "")


def test_a_directory_is_a_channel_when_it_is_there(tmp_path: Path) -> None:
    assert CondaSource({}).answers(tmp_path.as_uri(), 1.0) is None
    assert CondaSource({}).answers(f"{tmp_path.as_uri()}/x", 1.0) == f"the channel {tmp_path}/x is not there"


@pytest.mark.parametrize(
    ("dependency", "fault"),
    [
        ("python >=3.13", "cowpy needs python >=3.13, and 3.12.11 is there"),
        ("six", "cowpy needs six, which is not there"),
        ("__glibc >=2.40", "cowpy needs __glibc >=2.40, and 2.36 is there"),
        ("__osx >=11", "cowpy needs __osx >=11, which is not there"),
    ],
)
def test_refuses_a_lock_that_does_not_fit(tmp_path: Path, dependency: str, fault: str) -> None:
    lock = write_lock(tmp_path, conda(PYTHON), needing(COWPY, dependency))
    with pytest.raises(LockError) as caught:
        CondaSource({}).resolve(lock, "default", TARGET)
    assert fault in str(caught.value)
    assert "does not fit debian-12-x86_64" in str(caught.value)


@pytest.mark.parametrize("dependency", ["python >=3.12,<3.13.0a0", "__glibc >=2.17,<3.0.a0", "__linux", "__cuda >=12"])
def test_takes_a_lock_that_fits(tmp_path: Path, dependency: str) -> None:
    CondaSource({}).resolve(write_lock(tmp_path, conda(PYTHON), needing(COWPY, dependency)), "default", TARGET)


def test_refuses_wheels_for_another_python(tmp_path: Path) -> None:
    wheel = "https://files.example/attrs-25.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    with pytest.raises(LockError, match=r"attrs-25\.1\.0-cp311-.* does not run with Python 3\.12"):
        CondaSource({}).resolve(write_lock(tmp_path, conda(PYTHON), pypi(wheel)), "default", TARGET)


def test_refuses_a_lock_without_python(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="has no conda package python"):
        CondaSource({}).resolve(write_lock(tmp_path, conda(COWPY)), "default", TARGET)


def test_the_repositorys_own_locks_fit_every_release(repository: Path) -> None:
    for lock in (repository / "pixi.lock", *sorted(repository.glob("flows/*/pixi.lock"))):
        for release in ("debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"):
            locked = CondaSource({}).resolve(lock, "default", parse_target(release))
            versions = {download.name: download.version for download in locked.conda}
            assert (versions["python"], versions["prefect"]) == ("3.12.11", "3.4.20")
            assert ("cowpy" in versions) == (lock.parent.name == "demo2")


def test_the_index_lists_generated_packages_too(tmp_path: Path) -> None:
    file, package = system_python_package(TARGET)
    record = Download(
        "", file.path, package.sha256, package.size, "conda", "python", package.version, None, package.record
    )
    files = {index.path: json.loads(index.content) for index in CondaSource({}).index([record])}
    assert sorted(files) == ["mirror/conda/linux-64/repodata.json", "mirror/conda/noarch/repodata.json"]
    packages = files["mirror/conda/linux-64/repodata.json"]["packages"]
    assert packages["python-3.11-system_0.tar.bz2"]["sha256"] == package.sha256


def test_a_login_page_is_no_channel_whatever_it_says_of_itself() -> None:
    with serve(page=b"<html>") as server:
        assert "does not answer as one (a web page)" in (CondaSource({}).answers(f"{server.url}/forge", 5.0) or "")


def test_a_channel_answers_when_one_of_its_mirrors_does() -> None:
    with serve(statuses=[503] * 9) as bad, serve(files={"/f/noarch/repodata.json": b"{}"}) as good:
        channel = "https://channels.invalid/forge"
        assert CondaSource({channel: [f"{bad.url}/f", f"{good.url}/f"]}).answers(channel, 5.0) is None
        silence = CondaSource({channel: [f"{bad.url}/f", f"{bad.url}/g"]}).answers(channel, 5.0)
    assert silence is not None
    assert silence.count("status ") == 2


def test_mirrors_are_tried_in_order_and_the_longest_beginning_counts(tmp_path: Path) -> None:
    host = CHANNEL.rpartition("/")[0]
    mirrors = {
        host: ["https://all.invalid"],
        CHANNEL: ["https://first.invalid/cf", CHANNEL],
        "conda-forge": ["file:///x"],
    }
    (python,) = CondaSource(mirrors).resolve(write_lock(tmp_path, conda(PYTHON)), "default", TARGET).conda
    assert python.urls == (PYTHON.replace(CHANNEL, "https://first.invalid/cf"), PYTHON)
    (python,) = CondaSource({host: ["https://all.invalid"]}).resolve(tmp_path / "pixi.lock", "default", TARGET).conda
    assert python.url == PYTHON.replace(host, "https://all.invalid")


def test_mirrors_count_for_a_locks_wheels_too(tmp_path: Path) -> None:
    lock = write_lock(tmp_path, conda(PYTHON), pypi(WHEEL))
    host, _, path = WHEEL.removeprefix("https://").partition("/")
    (wheel,) = (
        CondaSource({f"https://{host}": ["https://m.invalid", "file:///m"]}).resolve(lock, "default", TARGET).wheels
    )
    assert wheel.urls == (f"https://m.invalid/{path}", f"file:///m/{path}")


def test_a_channel_is_asked_with_the_networks_own_proxy_and_logins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(files={"/forge/noarch/repodata.json": b"{}"}, login="Basic bWU6c2VjcmV0") as server:
        assert CondaSource({}, Network()).answers(f"{server.url}/forge", 5.0) is None


def test_extra_packages_of_a_lock(tmp_path: Path) -> None:
    lock = write_lock(tmp_path, conda(COWPY), pypi(WHEEL))
    found = CondaSource({}).resolve_extra(CondaExtra(lock), TARGET)
    assert [download.name for download in found] == ["cowpy", "attrs"]


def test_an_extra_package_by_its_address_brings_its_own_record(tmp_path: Path) -> None:
    file, package = system_python_package(TARGET)
    name = file.path.rpartition("/")[2]
    with serve(files={f"/forge/linux-64/{name}": file.content}) as server:
        source = CondaSource({"forge": [f"{server.url}/forge"]}, Network(timeout=5), Cache(tmp_path))
        extra = CondaExtra(url=f"https://channels.invalid/forge/linux-64/{name}", sha256=package.sha256)
        (download,) = source.resolve_extra(extra, TARGET)
        assert source.resolve_extra(extra, parse_target("debian-12-aarch64")) == []
    assert (download.name, download.path, download.size) == ("python", file.path, len(file.content))
    assert download.record is not None
    assert download.record["version"] == package.version
    assert "url" not in download.record


@pytest.mark.parametrize("url", ["https://c.invalid/forge/noarch/x.whl", "https://c.invalid/forge/noarch/x-1.conda"])
def test_an_address_that_is_no_packages_is_refused(url: str) -> None:
    with pytest.raises(LockError, match="is no conda package in a channel"):
        CondaSource({}).resolve_extra(CondaExtra(url=url, sha256="0" * 64), TARGET)


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with serve(files={"/forge/noarch/a-1-0.conda": b"nothing"}) as server:
        source = CondaSource({}, Network(timeout=5), Cache(tmp_path))
        extra = CondaExtra(url=f"{server.url}/forge/noarch/a-1-0.conda", sha256=sha256_of_bytes(b"nothing"))
        with pytest.raises(LockError, match=r"a-1-0\.conda is no conda package \("):
            source.resolve_extra(extra, TARGET)

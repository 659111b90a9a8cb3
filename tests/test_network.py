from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from airgap import network
from airgap.errors import AirgapError, UsageError
from airgap.network import Network, NetworkOptions, pip_network


def test_asks_pip_for_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://me:secret@first.invalid/simple\nproxy = http://p.invalid:3128\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://second.invalid/simple file:///srv/simple")
    monkeypatch.setenv("PIP_CERT", "/etc/own.pem")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "600")
    asked = pip_network()
    assert asked.indexes == (
        "https://me:secret@first.invalid/simple", "https://second.invalid/simple", "file:///srv/simple",
    )  # fmt: skip
    assert (asked.certificates, asked.proxy, asked.timeout) == ("/etc/own.pem", "http://p.invalid:3128", 60)


def test_the_variable_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mine.invalid/simple")
    assert pip_network().indexes[0] == "https://mine.invalid/simple"


def test_pip_is_asked_again_when_what_it_reads_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, asked = tmp_path / "pip.conf", []
    answer = {"certificates": None, "client_certificate": None, "proxy": "", "timeout": 5}

    def ask() -> dict[str, Any]:
        asked.append(1)
        index = configuration.read_text() if configuration.exists() else "https://first.invalid/simple"
        return {**answer, "indexes": [index], "places": [str(configuration)]}

    def indexes() -> tuple[str, ...]:
        return pip_network(tmp_path / "cache").indexes

    monkeypatch.setattr(network, "_ask_pip", ask)
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    assert [indexes(), indexes()] == [("https://first.invalid/simple",)] * 2
    assert len(asked) == 1
    configuration.write_text("https://second.invalid/simple")
    assert [indexes(), indexes()] == [("https://second.invalid/simple",)] * 2
    assert len(asked) == 2
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    indexes()
    assert len(asked) == 3
    # What is secret is asked for each time, and stands nowhere.
    configuration.write_text("https://me:s3cr3t@second.invalid/simple")
    assert [indexes(), indexes()] == [("https://me:s3cr3t@second.invalid/simple",)] * 2
    assert len(asked) == 5
    assert not any(b"s3cr3t" in path.read_bytes() for path in tmp_path.glob("cache/**/*.json"))


def test_a_pip_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_ASK_PIP", "raise SystemExit('no pip here')")
    with pytest.raises(AirgapError, match="no pip here"):
        pip_network()


def test_credentials_are_not_in_the_representation() -> None:
    assert "secret" not in repr(Network(indexes=("https://me:secret@i.invalid",), proxy="http://me:secret@p.invalid"))


def settings_for(network: Network, url: str, debs: bool = False) -> dict[str, Any]:
    session = network.session_for_debs(1) if debs else network.session(1)
    return dict(session.merge_environment_settings(url, {}, None, None, None))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables of a host that has a proxy and an authority of its own."""
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://environment.invalid:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/environment.pem")
    return monkeypatch


def test_what_the_operator_says_goes_before_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    options = NetworkOptions(("https://i.invalid",), "http://own.invalid:2", ("near.invalid",), authorities)
    network = Network(indexes=("https://pip.invalid",), proxy="http://pip.invalid:3").with_options(options)
    assert network.indexes == ("https://i.invalid",)
    there = settings_for(network, "https://far.invalid/x")
    assert (there["proxies"]["https"], there["verify"]) == ("http://own.invalid:2", str(authorities))
    assert settings_for(network, "https://a.near.invalid/x")["proxies"] == {}
    environment.setenv("no_proxy", "far.invalid")
    assert settings_for(network, "https://far.invalid/x")["proxies"] == {}


def test_the_environment_counts_where_nobody_says_anything(environment: pytest.MonkeyPatch) -> None:
    there = settings_for(Network().with_options(NetworkOptions()), "https://far.invalid/x")
    assert (there["proxies"]["https"], there["verify"]) == ("http://environment.invalid:1", "/environment.pem")


def test_a_redirect_takes_the_same_proxy(environment: pytest.MonkeyPatch) -> None:
    session = Network(proxy="http://own.invalid:2", no_proxy=("near.invalid",)).session(1)
    for url, proxies in (("https://far.invalid/", {"http": "http://own.invalid:2", "https": "http://own.invalid:2"}),
                         ("https://near.invalid/", {})):  # fmt: skip
        request = session.prepare_request(requests.Request("GET", url))
        assert session.rebuild_proxies(request, {}) == proxies


def test_debian_packages_come_through_apts_proxy() -> None:
    network = Network(deb_proxies={"http": "http://apt.invalid:9"})
    assert settings_for(network, "http://a.invalid/x", debs=True)["proxies"] == {"http": "http://apt.invalid:9"}
    assert "http" not in settings_for(network, "http://a.invalid/x")["proxies"]


def test_authorities_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.pem is not there.*--ca-file"):
        Network().with_options(NetworkOptions(ca_file=tmp_path / "none.pem"))

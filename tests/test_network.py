from __future__ import annotations

from pathlib import Path

import pytest

from airgap import network
from airgap.errors import AirgapError
from airgap.network import Network, pip_network


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


def test_a_pip_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_ASK_PIP", "raise SystemExit('no pip here')")
    with pytest.raises(AirgapError, match="no pip here"):
        pip_network()


def test_credentials_are_not_in_the_representation() -> None:
    assert "secret" not in repr(Network(indexes=("https://me:secret@i.invalid",), proxy="http://me:secret@p.invalid"))

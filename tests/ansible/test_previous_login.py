"""The login that was replaced, and for how long it is kept."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from previous_login import entry, entry_of, expiry, kept_text

OLD, NEW = "admin:o/l+d=", "admin:new"
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)
TEMPLATE = Path(__file__).parents[2] / "ansible/roles/prefect_server/templates/login.conf.j2"


def _proxy(login: str) -> str:
    """Return the proxy's configuration, as Ansible writes it."""
    jinja2 = pytest.importorskip("jinja2")
    filters = pytest.importorskip("ansible.plugins.filter.core").FilterModule().filters()
    environment = jinja2.Environment()
    environment.filters |= {"regex_escape": filters["regex_escape"], "comment": filters["comment"]}
    environment.filters["b64encode"] = lambda text: base64.b64encode(text.encode()).decode()
    environment.filters["dirname"] = lambda path: str(Path(path).parent)
    return str(
        environment.from_string(TEMPLATE.read_text()).render(
            ansible_managed="by Ansible",
            prefect_basic_auth_key=login,
            __prefect_server_previous_login_file="/etc/pag/logins/previous.conf",
        )
    )


@pytest.mark.parametrize("login", [OLD, NEW, "a:b"])
def test_the_templates_entry_is_found(login: str) -> None:
    assert entry(_proxy(login)) == entry_of(login)


def test_a_replaced_login_is_kept_until_its_hours_are_over() -> None:
    kept = kept_text(NEW, _proxy(OLD), "", 24, NOW)
    assert kept == f"# Until 2026-11-27 12:00:00 UTC\n{entry_of(OLD)} replaced;\n"
    assert expiry(kept) == NOW + timedelta(hours=24)
    later = NOW + timedelta(hours=23)
    assert kept_text(NEW, _proxy(NEW), kept, 24, later) == kept
    assert kept_text(NEW, _proxy(NEW), kept, 24, NOW + timedelta(hours=24)) == ""


def test_killed_before_the_proxy_was_configured_it_is_kept_all_the_same() -> None:
    kept = kept_text(NEW, _proxy(OLD), "", 24, NOW)
    again = kept_text(NEW, _proxy(OLD), kept, 24, NOW + timedelta(minutes=1))
    assert entry(again) == entry_of(OLD)


def test_none_is_kept_on_the_first_evening_or_when_there_are_no_hours() -> None:
    assert kept_text(NEW, "", "", 24, NOW) == ""
    assert kept_text(NEW, _proxy(OLD), kept_text(NEW, _proxy(OLD), "", 24, NOW), 0, NOW) == ""


def test_the_login_that_came_back_is_not_kept() -> None:
    kept = kept_text(NEW, _proxy(OLD), "", 24, NOW)
    assert entry(kept_text(OLD, _proxy(NEW), kept, 24, NOW)) == entry_of(NEW)
    assert kept_text(OLD, _proxy(OLD), kept, 24, NOW) == ""


@pytest.mark.parametrize("text", ["", "nonsense", '# Until tomorrow\n"~^[Bb]asic +x$" right;\n'])
def test_a_file_that_does_not_say_until_when_is_not_kept(text: str) -> None:
    assert kept_text(NEW, _proxy(NEW), text, 24, NOW) == ""

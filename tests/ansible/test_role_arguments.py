"""Each role's argument specification and its defaults say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted((Path(__file__).resolve().parents[2] / "ansible" / "roles").iterdir())


def _load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _options(role: Path) -> dict[str, dict[str, Any]]:
    entry_points = _load(role / "meta/argument_specs.yml")["argument_specs"].values()
    return {name: option for entry_point in entry_points for name, option in (entry_point.get("options") or {}).items()}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_specified(role: Path) -> None:
    assert set(_load(role / "defaults/main.yml")) <= set(_options(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_specified_defaults_are_the_defaults(role: Path) -> None:
    defaults = _load(role / "defaults/main.yml")
    specified = {name: option["default"] for name, option in _options(role).items() if "default" in option}
    # What follows other variables is a template, whose value no file tells.
    constant = {name for name in specified if "{{" not in str(defaults.get(name))}
    assert {name: specified[name] for name in constant} == {name: defaults.get(name) for name in constant}

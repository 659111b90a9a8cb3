"""Limits of runs: what they may be, what systemd is told, and how pools offer them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible.module_utils.job_template import with_limits
from ansible.module_utils.run_limits import LimitError, read_limits, unit_properties


def test_what_is_not_given_is_no_limit() -> None:
    assert read_limits({"memory_max": None, "tasks_max": ""}) == {}
    assert unit_properties({}) == []


def test_systemd_is_told_of_each_limit() -> None:
    limits = read_limits({"memory_max": "1.5G", "cpu_weight": 200, "tasks_max": "64", "time_max": 60})
    told = ["MemoryMax=1.5G", "MemorySwapMax=0", "CPUWeight=200", "TasksMax=64", "RuntimeMaxSec=60"]
    assert unit_properties(limits) == told


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory_max": "2"}, r"memory_max is '2': it has to be an amount of memory"),
        ({"memory_max": "10M"}, "at least 64M"),
        ({"memory_max": "120%"}, "a share such as 50%"),
        ({"memory_max": "4G\nUser=root"}, "memory_max is"),
        ({"cpu_weight": 0}, "from 1 to 10000"),
        ({"cpu_weight": True}, "cpu_weight is True"),
        ({"tasks_max": "many"}, "processes and threads"),
        ({"tasks_max": 3}, "from 16"),
        ({"time_max": -1}, "seconds"),
        ({"memory": "4G"}, "There is no limit called memory"),
    ],
)
def test_a_wrong_limit_is_refused_in_words(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(LimitError, match=message):
        read_limits(limits)


def test_a_pool_without_a_template_gets_prefects_variables_and_the_limits() -> None:
    template = with_limits({}, {"memory_max": "4G"})
    properties = template["variables"]["properties"]
    assert {"command", "env", "working_dir", "memory_max", "time_max"} <= properties.keys()
    assert (properties["memory_max"]["default"], properties["tasks_max"]["default"]) == ("4G", None)
    assert template["job_configuration"]["memory_max"] == "{{ memory_max }}"


def test_a_pools_own_template_is_kept() -> None:
    template = {
        "job_configuration": {"command": "{{ command }}"},
        "variables": {
            "properties": {"command": {"default": "x"}, "tasks_max": {"default": 99}},
            "required": ["command"],
        },
    }
    result = with_limits(template, {"cpu_weight": "50"})
    assert result["variables"]["required"] == ["command"]
    properties = result["variables"]["properties"]
    assert properties["command"] == {"default": "x"}
    assert (properties["tasks_max"]["default"], properties["cpu_weight"]["default"]) == (99, 50)
    assert with_limits(result, {"cpu_weight": "50"}) == result
    assert "cpu_weight" not in template["job_configuration"]

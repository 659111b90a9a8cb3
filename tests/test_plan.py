from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from airgap.errors import ResolutionError, UsageError
from airgap.plan import choose_interpreter, find_flows, plan_environments, plan_flow


class FakeChannels:
    def __init__(self, silence: str | None) -> None:
        self.silence = silence
        self.asked: list[str] = []

    def channels_of(self, locks: Sequence[Path]) -> list[str]:
        return ["https://me:secret@c.invalid/t/tk-1/forge"] if locks else []

    def answers(self, url: str, timeout: float) -> str | None:
        self.asked.append(url)
        return self.silence


def flow(tmp_path: Path, name: str, *files: str) -> Path:
    directory = tmp_path / "flows" / name
    directory.mkdir(parents=True)
    for file in files:
        (directory / file).touch()
    return directory


def test_auto_takes_conda_when_the_channels_answer(tmp_path: Path) -> None:
    choice = choose_interpreter("auto", [flow(tmp_path, "a", "pixi.lock") / "pixi.lock"], FakeChannels(None))
    assert choice.interpreter == "conda"
    assert "https://c.invalid/t/***/forge" in str(choice)
    assert "secret" not in str(choice)


def test_auto_takes_system_when_one_does_not_and_says_why(tmp_path: Path) -> None:
    lock = flow(tmp_path, "a", "pixi.lock") / "pixi.lock"
    choice = choose_interpreter("auto", [lock], FakeChannels("the channel https://c.invalid does not answer"))
    assert str(choice) == (
        "Python: system (the nodes' own Python with wheels), because the channel https://c.invalid does not answer."
    )


def test_the_manifests_reason_names_nothing_of_the_builders_machine(tmp_path: Path) -> None:
    lock = flow(tmp_path, "a", "pixi.lock") / "pixi.lock"
    choice = choose_interpreter("auto", [lock], FakeChannels("the channel /home/me/mirror is not there"))
    assert choice.reason == "the channel https://c.invalid/t/***/forge does not answer"
    assert "/home/me/mirror is not there" in str(choice)
    local = FakeChannels(None)
    local.channels_of = lambda locks: ["file:///home/me/forge"]  # type: ignore[method-assign]
    assert choose_interpreter("auto", [lock], local).reason == "the channels that the locks name answer (forge)"


def test_auto_without_locks_is_system(tmp_path: Path) -> None:
    channels = FakeChannels(None)
    assert choose_interpreter("auto", [tmp_path / "pixi.lock"], channels).interpreter == "system"
    assert channels.asked == []


@pytest.mark.parametrize("option", ["conda", "system"])
def test_what_was_asked_for_is_not_questioned(tmp_path: Path, option: str) -> None:
    channels = FakeChannels("no")
    lock = flow(tmp_path, "a", "pixi.lock") / "pixi.lock"
    assert choose_interpreter(option, [lock], channels).interpreter == option  # type: ignore[arg-type]
    assert channels.asked == []


def test_environments_of_each_interpreter(tmp_path: Path) -> None:
    flows = [
        flow(tmp_path, "both", "main.py", "pixi.lock", "requirements.txt"),
        flow(tmp_path, "wheels", "main.py", "requirements.txt"),
    ]

    def summary(interpreter: str) -> list[tuple[str, str, str]]:
        plans = plan_environments(tmp_path, flows, interpreter)  # type: ignore[arg-type]
        return [(plan.name, plan.interpreter, str(plan.lock.relative_to(tmp_path))) for plan in plans]

    always = [
        ("controller", "system", "requirements/controller.txt"),
        ("toolkit", "system", "requirements/toolkit.txt"),
    ]
    wheels = ("wheels", "system", "flows/wheels/requirements.txt")
    assert summary("system") == [
        ("prefect", "system", "requirements/prefect.txt"), *always,
        ("both", "system", "flows/both/requirements.txt"), wheels,
    ]  # fmt: skip
    assert summary("conda") == [
        ("prefect", "conda", "pixi.lock"), *always, ("both", "conda", "flows/both/pixi.lock"), wheels,
    ]  # fmt: skip


def test_a_flow_with_conda_packages_only_is_refused_in_system_mode(tmp_path: Path) -> None:
    directory = flow(tmp_path, "gdal", "main.py", "pixi.lock")
    (directory / "pixi.toml").write_text('[dependencies]\npython = "3.12.*"\ngdal = "*"\nlibnetcdf = "*"\n')
    with pytest.raises(ResolutionError, match=r"conda packages only \(gdal, libnetcdf\).*--python conda"):
        plan_flow(directory, "system")


def test_a_flow_without_locks(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match="neither"):
        plan_flow(flow(tmp_path, "a", "main.py"), "system")


def test_flow_directories_that_cannot_be_one(tmp_path: Path) -> None:
    for name, message in (("prefect", "cannot be called"), ("a b", "cannot be called")):
        with pytest.raises(UsageError, match=message):
            plan_environments(tmp_path, [flow(tmp_path, name)], "system")
    with pytest.raises(UsageError, match="no directory"):
        plan_environments(tmp_path, [tmp_path / "none"], "system")
    with pytest.raises(UsageError, match="same name"):
        plan_environments(tmp_path, [flow(tmp_path, "x/demo"), flow(tmp_path, "y/demo")], "system")


def test_flows_are_found(tmp_path: Path) -> None:
    flow(tmp_path, "b", "main.py")
    flow(tmp_path, "a", "requirements.txt")
    flow(tmp_path, "c", "notes.txt")
    assert [path.name for path in find_flows(tmp_path)] == ["a", "b"]
    assert find_flows(tmp_path / "elsewhere") == []

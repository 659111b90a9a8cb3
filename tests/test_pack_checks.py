from __future__ import annotations

from pathlib import Path

import pytest

from airgap.errors import PackError
from airgap.pack_checks import check_entrypoints, check_prefect, check_targets
from airgap.targets import parse_target

FLOW = "from prefect import flow\n\n@flow\ndef my_workflow():\n    pass\n"


def write(directory: Path, text: str, name: str = "main.py") -> Path:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return directory


def refusal(flow: Path, entrypoint: str | None = "main.py:my_workflow") -> str:
    with pytest.raises(PackError) as caught:
        check_entrypoints(flow, entrypoint)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        FLOW,
        FLOW.replace("@flow", "@flow(name='x', log_prints=True)"),
        FLOW.replace("def ", "async def "),
        FLOW.replace("from prefect import flow", "import prefect").replace("@flow", "@prefect.flow"),
        FLOW.replace("from prefect import flow", "import prefect as p").replace("@flow", "@p.flow()"),
        FLOW.replace("from prefect import flow", "from prefect.flows import flow as f").replace("@flow", "@f"),
        FLOW.replace("@flow", "@flow\n@staticmethod"),
        # What the author's own code makes is not known here.
        "from helpers import our_flow\n\n@our_flow\ndef my_workflow():\n    pass\n",
        "from helpers import my_workflow\n",
        "from prefect import flow\n\ndef f():\n    pass\n\nmy_workflow = flow(f)\n",
        "try:\n    import x\nexcept ImportError:\n    x = None\nelse:\n    from y import my_workflow\n",
        f"if True:\n    {FLOW.strip().replace(chr(10), chr(10) + '    ')}\n",
    ],
)
def test_an_entrypoint_that_is_there(tmp_path: Path, text: str) -> None:
    check_entrypoints(write(tmp_path, text), "main.py:my_workflow")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "has no function my_workflow at its top level"),
        (FLOW.replace("my_workflow", "another"), "has no function my_workflow"),
        ("class A:\n    from prefect import flow\n    @flow\n    def my_workflow(self): ...\n", "has no function"),
        (FLOW.replace("@flow\n", ""), "my_workflow in * is no flow: decorate it with @flow"),
        (FLOW.replace("@flow", "@task").replace("import flow", "import task"), "is no flow"),
        ("import functools\n\n@functools.cache\ndef my_workflow():\n    pass\n", "is no flow"),
        ("class my_workflow:\n    pass\n", "is no flow"),
        ("def my_workflow(:\n", "line 1 is no valid Python"),
    ],
)
def test_an_entrypoint_that_is_not(tmp_path: Path, text: str, reason: str) -> None:
    message = refusal(write(tmp_path, text))
    assert all(part in message for part in reason.split("*")), message


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [
        ("main.py", "is not of the form"),
        ("main:my_workflow", "is not of the form"),
        ("main.py:my workflow", "is not of the form"),
        ("other.py:my_workflow", "file other.py is not in"),
        ("../main.py:my_workflow", "is not in"),
    ],
)
def test_entrypoints_that_name_nothing(tmp_path: Path, entrypoint: str, reason: str) -> None:
    write(tmp_path, FLOW)
    assert reason in refusal(write(tmp_path, FLOW, "flow/main.py") / "flow", entrypoint)


def test_prefect_yaml_names_the_entrypoints(tmp_path: Path) -> None:
    write(tmp_path, FLOW, "flows/one.py")
    write(tmp_path, "deployments:\n  - {name: a, entrypoint: ./flows/one.py:my_workflow}\n", "prefect.yaml")
    check_entrypoints(tmp_path, None)
    write(tmp_path, "deployments:\n  - {name: a, entrypoint: two.py:my_workflow}\n", "prefect.yaml")
    assert "file two.py is not in" in refusal(tmp_path, None)
    check_entrypoints(tmp_path, "flows/one.py:my_workflow")


@pytest.mark.parametrize("text", ["deployments: [", "deployments: [{name: a}]\n", "- a\n", "deployments: 3\n"])
def test_a_prefect_yaml_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    assert "has no list of deployments" in refusal(write(tmp_path, text, "prefect.yaml"), None)


def test_some_flow_must_be_there_to_be_deployed(tmp_path: Path) -> None:
    write(tmp_path, "x = 1\n")
    write(tmp_path, FLOW, ".venv/lib/site.py")
    write(tmp_path, "{{ a template }}", "template.py")
    assert "No file in" in refusal(tmp_path, None)
    write(tmp_path, FLOW, "package/steps.py")
    check_entrypoints(tmp_path, None)


def test_prefect_is_not_newer_than_the_clusters(tmp_path: Path) -> None:
    for version, newest in (("3.8.8", "3.8.8"), ("3.8.8", "3.10.1"), ("3.8.8", None)):
        check_prefect(tmp_path, version, newest)
    with pytest.raises(PackError, match=r"Prefect 3\.10\.1, which is newer than the cluster's 3\.9\.2"):
        check_prefect(tmp_path, "3.10.1", "3.9.2")
    with pytest.raises(PackError, match="has no Prefect"):
        check_prefect(tmp_path, None, None)


def test_targets_are_the_clusters() -> None:
    check_targets([parse_target("debian-12")], ["debian-12-x86_64", "debian-13-x86_64"])
    with pytest.raises(PackError, match=r"no nodes for ubuntu-24\.04-x86_64 \(it has debian-12-x86_64\)"):
        check_targets([parse_target("debian-12"), parse_target("ubuntu-24.04")], ["debian-12-x86_64"])

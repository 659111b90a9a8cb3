"""The audit playbook: a clean cluster is clean, and each file that somebody changed is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_site import SERVER
from guide import CONTROLLER
from machines import Machines
from scenario_log import report
from testinfra.host import Host

On = Callable[[str], Host]

ANSIBLE = "pag-software-bundle/ansible"
WORKER = "pag-worker-1"
REPORT = "audit-report.json"
KEPT = "/var/tmp/pag-test-audit"
"""Where what is tampered with is kept meanwhile."""


@dataclass(frozen=True)
class Audit:
    """What came of a run of the playbook."""

    returncode: int
    output: str
    report: dict[str, Any]

    def named(self, machine: str) -> dict[str, str]:
        """Return what was found on a machine, by path."""
        return {finding["path"]: finding["what"] for finding in self.report["machines"][machine]["findings"]}


def audit(machines: Machines, *options: str) -> Audit:
    """Run the playbook as an operator does, with a report."""
    command = f"ansible-playbook -i inventory.yml audit.yml -e audit_report=~/{REPORT} {' '.join(options)}"
    printed = machines.ssh(
        CONTROLLER, f"cd {ANSIBLE} && rm -f ~/{REPORT}; {command} 2>&1; echo status=$?; cat ~/{REPORT}", check=False
    )
    output, _, rest = printed.rpartition("status=")
    status, _, report = rest.partition("\n")
    return Audit(int(status), output, json.loads(report))


def _changed(output: str) -> list[str]:
    return re.findall(r"^[\w.-]+ +: ok=\d+ +changed=([1-9]\d*)", output, re.MULTILINE)


def test_a_clean_cluster_is_clean(machines: Machines) -> None:
    outcome = audit(machines)
    assert outcome.returncode == 0, outcome.output
    assert {SERVER, WORKER, "localhost"} <= outcome.report["machines"].keys()
    for name, machine in outcome.report["machines"].items():
        assert machine["findings"] == [], name
        assert machine["environments"] >= 1, name
        assert machine["carried"] > 0, name
        assert machine["files"] > 5000, name
        report(f"{name}: {machine['files']} files in {machine['seconds']} s")
    assert outcome.report["not_audited"] == []
    assert _changed(outcome.output) == []
    assert "all as they should be" in outcome.output


def test_nothing_is_left_behind(machines: Machines) -> None:
    for name in (CONTROLLER, SERVER, WORKER):
        assert machines.ssh(name, "ls -d /tmp/pag-audit* 2>/dev/null || true") == "", name


@pytest.fixture
def base(on: On) -> str:
    """The worker's base environment."""
    return str(on(WORKER).file("/opt/prefect/pixi-env").linked_to)


@pytest.fixture
def sharing(on: On, base: str) -> list[str]:
    """The worker's environments; all of them have Prefect and what it needs, as hard links."""
    host = on(WORKER)
    found = host.check_output("find /opt/prefect/envs -mindepth 1 -maxdepth 1 -type d").split()
    assert base in found
    return found


TAMPER = r"""
set -eu
mkdir -p {kept}
site=$(echo {base}/env/lib/python3*/site-packages)
keep() {{ mkdir -p {kept}$(dirname $1); cp -a $1 {kept}$1; }}
pyc=$(echo $site/attr/__pycache__/_make.*.pyc)
for file in $site/click/utils.py $pyc {base}/env/bin/prefect {base}/activate.sh /usr/bin/rsync {code}/main.py; do
    keep $file
done
# The source as it is linked into every environment and the cache.
echo 'print("tampered")' >> $site/click/utils.py
# Compiled code that says of itself that it belongs to its source.
/usr/bin/python3 - $pyc << 'END'
import marshal, sys
path = sys.argv[1]
content = open(path, "rb").read()
code = marshal.loads(content[16:])
planted = code.replace(co_consts=tuple("changed" if value == code.co_consts[0] else value for value in code.co_consts))
assert planted != code
open(path, "wb").write(content[:16] + marshal.dumps(planted))
END
ln $site/attr/setters.py {kept}/setters.py
rm $site/attr/setters.py
echo 'import os' > $site/sitecustomize.py
echo 'import os' > $site/planted.pth
sed -i 's/sys.exit(app())/sys.exit(0)/' {base}/env/bin/prefect
echo 'export PLANTED=1' >> {base}/activate.sh
mkdir /opt/prefect/envs/planted-0123456789ab
echo '# tampered' >> {code}/main.py
printf x >> /usr/bin/rsync
mv /usr/share/doc/rsync/copyright {kept}/copyright
"""

RESTORE = r"""
set -eu
site=$(echo {base}/env/lib/python3*/site-packages)
cd {kept}
# Into the same inodes: they are shared.
for file in $(find . -type f -path './*/*' | sed 's/^.//'); do
    cat {kept}$file > $file
    touch -r {kept}$file $file
done
[ -e $site/attr/setters.py ] || ln {kept}/setters.py $site/attr/setters.py
rm -f $site/sitecustomize.py $site/planted.pth
rmdir /opt/prefect/envs/planted-0123456789ab
[ ! -e {kept}/copyright ] || mv {kept}/copyright /usr/share/doc/rsync/copyright
rm -r {kept}
"""


@pytest.fixture
def tampered(on: On, base: str, sharing: list[str]) -> Iterator[dict[str, str]]:
    """What a machine looks like that somebody was on; restored afterwards. *sharing* is looked at before."""
    host = on(WORKER)
    record = on(CONTROLLER).check_output("cat /opt/pag/flows/demo2/*/current/record.json | head -c 100000")
    code = f"/opt/prefect/flows/demo2/{json.JSONDecoder().raw_decode(record)[0]['version']}"
    places = {"kept": KEPT, "base": base, "code": code}
    assert host.run(TAMPER.format(**places)).rc == 0
    yield places
    assert host.run(RESTORE.format(**places)).rc == 0


def test_every_file_is_named(machines: Machines, on: On, tampered: dict[str, str], sharing: list[str]) -> None:
    base, code = tampered["base"], tampered["code"]
    site = on(WORKER).check_output(f"echo {base}/env/lib/python3*/site-packages").removeprefix(base)
    compiled = on(WORKER).check_output(f"echo {base}{site}/attr/__pycache__/_make.*.pyc").removeprefix(base)
    # With --check it finds what it finds without: that changes nothing either.
    outcome = audit(machines, "--check")
    assert outcome.named(WORKER) == {
        **{f"{environment}{site}/click/utils.py": "changed" for environment in sharing},
        **{f"{environment}{compiled}": "changed" for environment in sharing},
        f"{base}{site}/attr/setters.py": "missing",
        f"{base}{site}/sitecustomize.py": "unexpected",
        f"{base}{site}/planted.pth": "unexpected",
        f"{base}/env/bin/prefect": "changed",
        f"{base}/activate.sh": "changed",
        "/opt/prefect/envs/planted-0123456789ab": "unexpected",
        f"{code}/main.py": "changed",
        "/usr/bin/rsync": "changed",
        "/usr/share/doc/rsync/copyright": "missing",
    }
    assert outcome.named(SERVER) == {}
    assert outcome.named("localhost") == {}
    assert outcome.returncode == 2
    words = " ".join(outcome.output.split())
    assert f"{WORKER} differs from what the bundles on the controller hold" in words
    assert f"{base}{site}/sitecustomize.py: unexpected" in words
    assert _changed(outcome.output) == []


def test_it_is_clean_again(machines: Machines) -> None:
    outcome = audit(machines, "--limit", WORKER)
    assert outcome.returncode == 0, outcome.output
    assert list(outcome.report["machines"]) == [WORKER]


def test_a_damaged_mirror_is_no_measure(machines: Machines, on: On) -> None:
    """What the controller compares with is checked first."""
    host = on(CONTROLLER)
    wheel = host.check_output("ls /opt/pag/mirror/pypi/jinja2-3*.whl | head -n 1")
    host.check_output(f"cp -a {wheel} /var/tmp/pag-test-wheel && cp -a {wheel} {wheel}.new && printf x >> {wheel}.new")
    host.check_output(f"mv {wheel}.new {wheel}")
    try:
        printed = machines.ssh(
            CONTROLLER, f"cd {ANSIBLE} && ansible-playbook -i inventory.yml audit.yml 2>&1; echo status=$?", check=False
        )
    finally:
        host.check_output(f"mv /var/tmp/pag-test-wheel {wheel}")
    words = " ".join(printed.split())
    assert "status=2" in words
    assert f"pypi/{wheel.rpartition('/')[2]} differs" in words
    assert machines.ssh(CONTROLLER, "ls -d /tmp/pag-audit* 2>/dev/null || true") == ""

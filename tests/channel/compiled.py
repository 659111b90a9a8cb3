"""Compiled code with the prefix built in, and the scripts that conda packages bring."""

from __future__ import annotations

import subprocess
from pathlib import Path

from channel.packages import PLACEHOLDER, File, Package

_LIBRARY = """
const char *greeting_file(void) { return PREFIX "/share/greet/greeting"; }
"""
_PROGRAM = """
#include <stdio.h>
const char *greeting_file(void);
int main(void) {
    char line[4096];
    FILE *file = fopen(greeting_file(), "r");
    if (!file || !fgets(line, sizeof line, file)) { perror(greeting_file()); return 1; }
    fputs(line, stdout);
    return 0;
}
"""


def compiled_packages(work: Path) -> list[Package]:
    """Compile the library and the program in *work* and return a package of each."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "greet.c").write_text(_LIBRARY)
    (work / "main.c").write_text(_PROGRAM)
    _compile(work, "-shared", "-fPIC", f'-DPREFIX="{PLACEHOLDER}"', "-o", "libgreet.so.1", "greet.c")
    _compile(work, "-o", "greet", "main.c", "libgreet.so.1", "-Wl,-rpath,$ORIGIN/../lib")
    return [
        Package(
            name="libgreet",
            version="1.0",
            subdir="linux-64",
            depends=["__glibc >=2.17"],
            files={
                "lib/libgreet.so.1": File((work / "libgreet.so.1").read_bytes()),
                "lib/libgreet.so": File(target="libgreet.so.1"),
                "lib/pkgconfig/greet.pc": File(f"prefix={PLACEHOLDER}\nlibdir=${{prefix}}/lib\n".encode()),
            },
        ),
        Package(
            name="greet",
            version="1.0",
            subdir="linux-64",
            depends=["libgreet 1.*"],
            files={
                "bin/greet": File((work / "greet").read_bytes(), executable=True),
                "share/greet/greeting": File(f"Hello from {PLACEHOLDER}\n".encode()),
            },
        ),
    ]


def script_packages() -> list[Package]:
    """Return packages with an entry point and with an activation script."""
    return [
        Package(
            name="greet-py",
            version="1.0",
            noarch="python",
            depends=["python >=3.10"],
            entry_points=["greet-py = greet_py:main"],
            files={
                "site-packages/greet_py.py": File(
                    b"import sys\n\n\ndef main():\n    print('Hello from', sys.prefix)\n"
                ),
                "site-packages/greet_py-1.0.dist-info/METADATA": File(
                    b"Metadata-Version: 2.1\nName: greet-py\nVersion: 1.0\n"
                ),
            },
        ),
        Package(
            name="greet-activate",
            version="1.0",
            noarch="generic",
            suffix=".tar.bz2",
            files={
                "etc/conda/activate.d/greet.sh": File(b'export GREET_HOME="${CONDA_PREFIX}/share/greet"\n'),
                "etc/conda/env_vars.d/greet.json": File(b'{"GREET_TONE": "it\'s $warm"}'),
            },
        ),
    ]


def _compile(work: Path, *arguments: str) -> None:
    subprocess.run(["cc", *arguments], cwd=work, check=True)

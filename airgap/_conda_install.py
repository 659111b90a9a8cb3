"""Links conda packages into a prefix with rattler: ``python3 -m airgap._conda_install JOB RESULT``.

A program of its own, as rattler's threads sometimes crash the interpreter while it exits, after all work is done: this
runs in a child process, writes its result to a file, and leaves without the interpreter's clean-up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any


async def _install(job: dict[str, Any]) -> None:
    from rattler import Channel, PackageCache, RepoData, Subdir, ValidationMode, install

    channel = Channel(Path(job["channel"]).as_uri())
    records = [
        record for repodata in job["repodata"] for record in RepoData.from_path(repodata).into_repo_data(channel)
    ]
    await install(
        records,
        target_prefix=job["prefix"],
        platform=Subdir(job["platform"]),
        # Checks every file of a package that is in the cache already: what another environment's user wrote through a
        # hard link is found here.
        package_cache=PackageCache.new_layered([job["cache"]], False, ValidationMode.full()),
        show_progress=False,
        execute_link_scripts=False,
    )


def main(job_file: str, result_file: str) -> None:
    """Do the job described in *job_file* and write ``{"error": null or text}`` to *result_file*."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    error = None
    try:
        asyncio.run(_install(job))
    except BaseException as exception:  # what the library raises is reported to the parent process
        error = f"{type(exception).__name__}: {exception}"
    Path(result_file).write_text(json.dumps({"error": error}), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

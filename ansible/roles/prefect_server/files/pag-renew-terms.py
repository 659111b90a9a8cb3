#!/usr/bin/env python3
"""Give every run that waits for a sign of life a new term, before the server starts: ``pag-renew-terms AUTOMATION``.

While the server is away, nobody can tell it that a run lives. Without this it would, once it is back, take all runs
for dead whose terms ended meanwhile; or, after a minute more, forget that it waits for them.
"""

from __future__ import annotations

import asyncio
import os
import sys

_SECONDS = 20.0
_RENEW = """
    UPDATE automation_bucket AS term
       SET "end" = now() + (term."end" - term.start), start = now()
      FROM automation
     WHERE automation.id = term.automation_id AND automation.name = $1
"""


async def renew(automation: str) -> str:
    """Renew the terms of the automation with this name; return what the database says, ``UPDATE <number>``."""
    import asyncpg

    setting = "PREFECT_SERVER_DATABASE_"
    connection = await asyncpg.connect(
        host=os.environ[f"{setting}HOST"],
        port=int(os.environ[f"{setting}PORT"]),
        database=os.environ[f"{setting}NAME"],
        user=os.environ[f"{setting}USER"],
        password=os.environ[f"{setting}PASSWORD"],
        timeout=_SECONDS,
    )
    try:
        return str(await connection.execute(_RENEW, automation, timeout=_SECONDS))
    finally:
        await connection.close()


def main() -> None:
    """Renew them; the unit starts the server whatever comes of it."""
    try:
        print(
            f"Runs that get a new term for a sign of life: {asyncio.run(renew(sys.argv[1])).split()[-1]}.", flush=True
        )
    except Exception as error:  # before the first migration there is no table, at boot there may be no database yet
        sys.exit(f"The terms for signs of life could not be renewed: {' '.join(str(error).split())[:300]}")


if __name__ == "__main__":
    main()

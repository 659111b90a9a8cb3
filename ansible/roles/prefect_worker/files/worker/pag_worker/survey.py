"""One round of looking after a worker's runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pag_worker.reports import LOST, given_up, is_living

if TYPE_CHECKING:
    from worker_record import Entry, Record

    from pag_worker.reports import Reports, Run


def survey(record: Record, reports: Reports, worker: str, about_to_end: Collection[str] = frozenset()) -> list[Entry]:
    """Vouch for the runs that are under way and report those that were lost, save those *about_to_end*.

    Returns the runs that another worker has meanwhile: their processes here are to be ended. Raises PrefectApiError;
    what was not reported is tried again in the next round.
    """
    under_way = record.under_way()
    lost = [entry for entry in record.lost() if entry.id not in about_to_end]
    if not under_way and not lost:
        return []
    known = reports.runs(entry.id for entry in [*under_way, *lost])
    foreign = _look_after([entry for entry in under_way if entry.pid is not None], known, reports)
    _report(lost, known, record, reports, worker)
    return foreign


def _look_after(entries: list[Entry], known: Mapping[str, Run], reports: Reports) -> list[Entry]:
    """Vouch for runs whose processes live; return those that are another worker's."""
    foreign, mine = [], []
    for entry in entries:
        run = known.get(entry.id)
        if run is None:
            continue
        if is_living(run) and reports.is_mine(run, time.time()) is False:
            foreign.append(entry)
            continue
        if given_up(run):
            reports.restore(run)
        mine.append(run)
    reports.vouch(mine)
    return foreign


def _report(lost: list[Entry], known: Mapping[str, Run], record: Record, reports: Reports, worker: str) -> None:
    """Report the end of runs that have no process any more, and forget them."""
    taken_again = {entry.id for entry in record.unsettled()}
    for entry in lost:
        run = known.get(entry.id)
        if run is not None and is_living(run) and entry.id not in taken_again:
            mine = reports.is_mine(run, time.time())
            if mine is None:
                continue
            if mine:
                reports.end(run, f"{LOST}the worker on {worker}, or its machine, ended while it had this run.")
        record.reported(entry.id)

"""Prefect's worker for processes, made to drain and to keep a record of its runs.

Works with Prefect 3.4 and 3.8. What is overridden here is named alike in both; methods whose names begin with an
underscore are Prefect's own business, so every new version has to pass the checks on machines (test_drain).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from prefect.workers.process import ProcessWorker

from pag_worker.boxes import BoxConfiguration, BoxVariables, hooks_of
from pag_worker.hooks import keep_flows_out, run_to_its_end
from pag_worker.reports import LOST
from pag_worker.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_holds import Holds
    from worker_record import Record

    from pag_worker.reports import Reports

_SURVEY_SECONDS = 30.0
_ANSWER_SECONDS = 30.0
"""How long a question to the server may take with all its repetitions, between which Prefect's client comes to wait for
minutes: a server that is back is to be noticed."""
_GRACE_SECONDS = 10.0
"""How long a run's process may take to end after it was told to, before it is killed."""
_REPORT_SECONDS = 10.0
"""How long Prefect may take to report the ends of processes."""
_NO_ANSWER = (httpx.TransportError, httpx.HTTPStatusError, TimeoutError)
_NOT_STARTED = "the run was not started"
_COULD_NOT = f"{LOST}{_NOT_STARTED}"
"""How the message begins of a run that the node could not start, for no fault of the run's."""
_KEPT_SECONDS = 60.0
"""How long it is known what a run was started with after it has ended: Prefect may call its hooks then."""
_REST_SECONDS = 60.0
"""How long a node takes no runs after that: others may be well."""


class _Started:
    """Stands between Prefect and whoever waits for a run's process to start."""

    def __init__(self, inner: Any, seen: Callable[[int], None]) -> None:
        self._inner = inner
        self._seen = seen

    def started(self, value: int) -> None:
        self._seen(value)
        if self._inner is not None:
            self._inner.started(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class DrainingWorker(ProcessWorker):
    """A worker that ends when its runs have ended."""

    job_configuration = BoxConfiguration
    job_configuration_variables = BoxVariables

    record: Record
    reports: Reports
    holds: Holds

    def equip(self, record: Record, reports: Reports, holds: Holds, stop_seconds: float) -> None:
        """Give the worker its files and its view of the server; *stop_seconds* is what its runs get at a stop."""
        self.record, self.reports, self.holds = record, reports, holds
        self._stop_seconds = stop_seconds
        keep_flows_out(self._call_hooks)
        self._started_with: dict[str, BoxConfiguration] = {}
        self._calling_hooks: set[str] = set()
        self._rests_until = 0.0
        self._stopping: float | None = None
        self._ending: str | None = None
        self._beginnings: set[asyncio.Future[None]] = set()
        self._wake = asyncio.Event()
        self._executing: set[str] = set()
        self._said: str | None = None
        self._reason: str | None = None

    # Taking runs

    async def get_and_submit_flow_runs(self) -> list[Any]:
        """Take the runs that are due, unless something keeps the worker from it."""
        reason = "it is about to stop" if self._stopping is not None else self.holds.reason() or self._why_not_here()
        if reason:
            self._say(f"The worker takes no runs: {reason}.")
        if reason or self._work_pool is None:
            return []
        # What gets out of here ends the worker, and with it all its runs: whatever it is, they go on.
        try:
            submitted = await super().get_and_submit_flow_runs()
        except Exception as error:
            self._say_what_went_wrong(error)
            return []
        self._say("The worker takes runs.")
        return list(submitted)

    async def _get_scheduled_flow_runs(self) -> list[Any]:
        with anyio.fail_after(_ANSWER_SECONDS):
            return await super()._get_scheduled_flow_runs()

    async def sync_with_backend(self) -> None:
        """Tell the server that the worker is there."""
        try:
            with anyio.fail_after(_ANSWER_SECONDS):
                await super().sync_with_backend()
        except Exception as error:
            self._say_what_went_wrong(error)

    def _why_not_here(self) -> str | None:
        """Return why the node cannot have runs now, None when it can."""
        if time.monotonic() < self._rests_until:
            return "this node could not start the last one: see that run's message"
        try:
            self.record.probe()
        except OSError as error:
            return f"its records cannot be written ({error})"
        return None

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[Any]:
        if self._stopping is not None or self.holds.reason():
            return []
        # One that is scheduled again while it still has a process here waits for that one's end, or is restored.
        known = {entry.id for entry in self.record.unsettled()}
        new = [entry for entry in flow_run_response if str(entry.flow_run.id) not in known]
        submitted = list(await super()._submit_scheduled_flow_runs(new))
        for run in submitted:
            try:
                self.record.begin(str(run.id), run.name)
            except OSError as error:  # it has begun, and is recorded again with its process
                print(f"The run {run.id} could not be recorded: {error}", flush=True)
        return submitted

    async def _submit_run(self, flow_run: Any) -> None:
        try:
            await super()._submit_run(flow_run)
        except Exception as error:  # whatever it is, the other runs go on
            print(f"The run {flow_run.id} could not be taken: {_in_words(error)}", flush=True)
            self._give_back(flow_run.id)
        # Somebody else has it, or it could not be started.
        if str(flow_run.id) not in self._executing:
            self._ended(str(flow_run.id))

    def _give_back(self, run: Any) -> None:
        """Make room for another run, and have the next round tell what has become of this one: it may be Pending."""
        if str(run) in self._executing:
            return
        self._submitting_flow_run_ids.discard(run)
        # Prefect may have released it already.
        with contextlib.suppress(RuntimeError):
            self._release_limit_slot(run)
        self._keep(self.record.lose, str(run))

    async def _submit_run_and_capture_errors(self, flow_run: Any, task_status: Any = None) -> Any:
        self._executing.add(str(flow_run.id))
        result = await super()._submit_run_and_capture_errors(flow_run, task_status)
        await self._settle(str(flow_run.id), getattr(result, "status_code", None))
        self._executing.discard(str(flow_run.id))
        self._ended(str(flow_run.id))
        return result

    async def _cancel_run(self, flow_run_id: Any) -> None:
        try:
            await super()._cancel_run(flow_run_id)
        except Exception as error:  # whatever it is, the other runs go on
            print(f"The run {flow_run_id} could not be cancelled: {_in_words(error)}", flush=True)

    async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
        """Run a flow's process to its end."""

        def seen(pid: int) -> None:
            try:
                self.record.started(str(flow_run.id), pid)
            except OSError as error:  # it goes on; when it is not vouched for in time, the server gives it up
                print(f"The process of the run {flow_run.id} could not be recorded: {error}", flush=True)
            beginning = asyncio.ensure_future(self._begin(flow_run))
            self._beginnings.add(beginning)
            beginning.add_done_callback(self._beginnings.discard)

        self._started_with[str(flow_run.id)] = configuration
        return await super().run(flow_run, configuration, _Started(task_status, seen))

    async def _begin(self, flow_run: Any) -> None:
        """Vouch for a run at once, and for it alone: all others, and what they called, have their turn anyway."""
        try:
            await asyncio.to_thread(self.reports.vouch_for_new, str(flow_run.id), flow_run.name, flow_run.tags)
        except Exception as error:  # whatever it is, the run goes on, and has its turn too
            print(f"The run {flow_run.id} could not be vouched for yet: {error}", flush=True)

    async def _call_hooks(self, flow_run: Any, state: Any) -> None:
        """Have the hooks of a run that crashed or was cancelled called in a box, and wait for their end."""
        run = str(flow_run.id)
        self._calling_hooks.add(run)
        try:
            if state.is_crashed():
                # They are to see why.
                await self._settle(run, None)
            await self._call_hooks_of(flow_run, "crashed" if state.is_crashed() else "cancellation")
        except Exception as error:  # whatever it is, the other runs go on
            print(f"The hooks of the run {run} could not be called: {_in_words(error)}", flush=True)
        finally:
            self._calling_hooks.discard(run)
            self._wake.set()

    async def _call_hooks_of(self, flow_run: Any, kind: str) -> None:
        run = str(flow_run.id)
        configuration = self._started_with.get(run)
        command = None if configuration is None else configuration.hooks_command(kind)
        if configuration is None or command is None:
            return
        given = {**configuration.env, "PREFECT__FLOW_RUN_ID": run}
        # Where there is none, its home in the box is.
        directory = configuration.working_dir or "/tmp"  # noqa: S108
        status = await run_to_its_end(command, directory, given, show=configuration.stream_output)
        why = self._keep(self.record.take_end, hooks_of(flow_run))
        if status:
            message = f"The hooks of this run did not all come to their end: {why or f'status {status}'}"
            await asyncio.to_thread(self.reports.log, {"id": run}, message)

    def _ended(self, run: str) -> None:
        asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._forget, run, self._started_with.get(run))
        self._keep(self.record.end, run)
        self._wake.set()

    def _forget(self, run: str, configuration: BoxConfiguration | None) -> None:
        """Forget what a run was started with, unless it was started again."""
        if self._started_with.get(run) is configuration:
            self._started_with.pop(run, None)

    def _keep(self, change: Callable[[str], Any], run: str) -> Any:
        """Change the record of a run and return what that says; None where the disk does not let it."""
        try:
            return change(run)
        except OSError as error:  # the runs go on
            print(f"The record of the run {run} could not be changed: {error}", flush=True)
            return None

    async def _settle(self, run: str, status: int | None) -> None:
        """See to it that a run whose process has ended is not under way any more."""
        why = self._keep(self.record.take_end, run)
        if why is not None and _NOT_STARTED in why.lower():
            self._started_with.pop(run, None)  # nothing of its flow has run: no hooks are called
        if why is not None and why.startswith(_COULD_NOT):
            self._rests_until = time.monotonic() + _REST_SECONDS
        why = self._ending or why
        message = why or f"{LOST}its process ended with status {status}, and it could report no state."
        try:
            known = (await asyncio.to_thread(self.reports.runs, [run])).get(run)
            if known is None or self.reports.is_mine(known, time.time()) is False:
                return
            if known["state_type"] == "CANCELLING":
                self._keep(self.record.lose, run)  # Prefect is about to say that it is cancelled
            else:
                ended = await asyncio.to_thread(self.reports.end, known, message, crashed_too=why is not None)
                if why is not None and not ended:
                    await asyncio.to_thread(self.reports.log, known, why)
        except Exception as error:  # whatever it is, the other runs go on
            self._keep(self.record.lose, run)
            print(f"The end of the run {run} is reported later: {error}", flush=True)

    # Looking after them

    async def look_after_runs(self) -> None:
        """Vouch for the runs, and report those that were lost, until cancelled."""
        while True:
            try:
                foreign = await asyncio.to_thread(
                    survey, self.record, self.reports, self.name, frozenset(self._calling_hooks)
                )
            except Exception as error:  # whatever it is, the runs go on
                print(f"The worker's runs could not be vouched for: {error}", flush=True)
            else:
                for entry in foreign:
                    print(f"The run {entry.id} is another worker's meanwhile: its process here ends.", flush=True)
                    if entry.pid is not None:
                        _signal(entry.pid, signal.SIGKILL)
            await asyncio.sleep(_SURVEY_SECONDS)

    # Stopping

    def stop(self) -> None:
        """Take no more runs, and end when there are none."""
        if self._stopping is None:
            self._stopping = time.monotonic()
            names = ", ".join(entry.name or entry.id for entry in self.record.under_way())
            wait = f"waits up to {self._stop_seconds:g} s for {names}" if names else "has no runs"
            print(f"The worker stops: it {wait}.", flush=True)
        self._wake.set()

    def stop_now(self) -> None:
        """End without waiting for the runs any longer."""
        self._stop_seconds = 0.0
        self._reason = "was told to end its runs"
        self.stop()

    async def wait_for_the_end(self) -> None:
        """Return when the worker was told to stop and its runs have ended, or were ended."""
        while self._stopping is None or self._has_to_wait(self._stopping):
            await _wait(self._wake, 0.5)
            self._wake.clear()
        waited = time.monotonic() - self._stopping
        if self.record.under_way():
            await self._end_runs(self._reason or f"was stopped after it had waited {waited:.0f} s for this run")
        await self._settle_the_rest()
        print(f"The worker has ended, {waited:.0f} s after it was told to.", flush=True)

    def _has_to_wait(self, stopping: float) -> bool:
        """Whether there is something to wait for still."""
        under_way = bool(self.record.under_way() or self._calling_hooks)
        return under_way and time.monotonic() - stopping < self._stop_seconds

    async def _end_runs(self, reason: str) -> None:
        """End the processes of all runs, and see to it that each run has a state that says why."""
        self._ending = f"{LOST}the worker on {self.name} {reason}."
        for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _REPORT_SECONDS)):
            for entry in self.record.under_way():
                print(f"The run {entry.name or entry.id} is ended.", flush=True)
                if entry.pid is not None:
                    _signal(entry.pid, number)
            deadline = time.monotonic() + seconds
            while self.record.under_way() and time.monotonic() < deadline:
                await asyncio.sleep(0.2)

    async def _settle_the_rest(self) -> None:
        """Let Prefect report the ends of processes, and report those of which it sees no end, or no beginning."""
        deadline = time.monotonic() + _REPORT_SECONDS
        while self.record.unsettled() and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        for entry in self.record.unsettled():
            await self._settle(entry.id, None)
            self._keep(self.record.end, entry.id)

    def _say_what_went_wrong(self, error: Exception) -> None:
        if isinstance(error, _NO_ANSWER):
            self._say(f"The worker waits for the Prefect server: {_in_words(error)}.")
        else:
            self._say(f"What the worker asked the server for failed: {type(error).__name__}: {_in_words(error)}.")

    def _say(self, sentence: str) -> None:
        """Print a sentence when it is not the one that was printed last."""
        if sentence != self._said:
            self._said = sentence
            print(sentence, flush=True)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when something happened, or after so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _signal(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

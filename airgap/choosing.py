"""Which Python a build's environments have, asked of the channels only when that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airgap.cache import Cache
from airgap.network import Network
from airgap.plan import LOCK_NAME, BuildOptions, Choice, choose_interpreter


def choose(options: BuildOptions, network: Network) -> Choice:
    """Return which Python to build with, as *options* say or as the channels answer."""
    locks = [options.root / LOCK_NAME, *(flow / LOCK_NAME for flow in options.flows)]
    if options.python != "auto" or not any(lock.is_file() for lock in locks):
        return choose_interpreter(options.python, locks, _NoChannels())
    # Only now: what reads locks takes a while to load.
    from airgap.sources.conda import CondaSource

    return choose_interpreter("auto", locks, CondaSource(options.channels, network, Cache(options.cache)))


class _NoChannels:
    """For a choice that asks no channels."""

    def channels_of(self, locks: Sequence[Path]) -> list[str]:
        return []

    def answers(self, url: str, timeout: float) -> str | None:
        return None

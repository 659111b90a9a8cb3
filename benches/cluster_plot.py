#!/usr/bin/env python3
"""Draw the figures of benches/cluster.py: python cluster_plot.py FIGURES.json PICTURE.png. Needs matplotlib."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

_LINES = (
    "main.yml unchanged",
    "main.yml unchanged, all tasks",
    "empty play (one ping a node)",
    "empty play (Ansible gathers its facts)",
)


def draw(figures: list[dict[str, Any]], picture: Path, host: str) -> None:
    """Draw seconds over nodes for what is measured at several sizes, and bars for the rest."""
    seconds: dict[str, list[tuple[int, float]]] = {}
    for figure in figures:
        values = figure["seconds"]
        seconds.setdefault(str(figure["what"]), []).append((int(str(figure["nodes"])), statistics.median(values)))
    canvas, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for what in _LINES:
        if what in seconds:
            left.plot(*zip(*seconds[what], strict=True), marker="o", label=what)
    left.set(title="Nothing to do", xlabel="nodes", ylabel="seconds", ylim=0)
    left.legend()
    bars = [(f"{what} ({nodes})", value) for what, row in seconds.items() if what not in _LINES for nodes, value in row]
    right.barh([name for name, _ in bars], [value for _, value in bars])
    right.invert_yaxis()
    right.set(title="Something to do (nodes)", xlabel="seconds")
    canvas.suptitle(f"All machines on one host: {host}", fontsize=9)
    canvas.savefig(picture, dpi=110)


if __name__ == "__main__":
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    draw(document["figures"], Path(sys.argv[2]), document["host"])

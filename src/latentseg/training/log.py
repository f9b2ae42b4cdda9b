"""The log of a training: one JSON object a line, and its curves as a picture."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.files import written_whole

log = logging.getLogger(__name__)
LOG_NAME = "log.jsonl"


def write_row(folder: Path, row: dict[str, float]) -> None:
    """Append a row to the log of a run and show it."""
    row = {name: value if isinstance(value, int) else round(value, 5) for name, value in row.items()}
    with (folder / LOG_NAME).open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("%s", row)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a JSONL log in order of steps; of rows written twice around a kill, the later ones.

    A line that a kill cut short is left out.
    """
    rows: dict[float, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows[row["step"]] = row
        except (ValueError, KeyError, TypeError):
            log.debug("left out a damaged line of %s", path)
    return [row for _, row in sorted(rows.items())]


def plot_log(path: Path, *, window: int = 15) -> None:
    """Draw every figure of a log over the steps, raw and as a running mean, to ``loss.png`` beside it."""
    rows = read_log(path)
    if len(rows) < 2:
        return
    from matplotlib.figure import Figure

    names = [name for name in rows[-1] if name not in ("step", "seconds")]
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="tight")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        if points:
            _curve(axis, np.array(points), window)
    with written_whole(path.with_name("loss.png")) as temporary:
        figure.savefig(temporary, dpi=110)


def _curve(axis: Any, points: NDArray[np.float64], window: int) -> None:
    """Draw points ``(n, 2)`` and their running mean; a few outliers may leave the frame."""
    steps, values = points.T
    width = min(window, len(values))
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    axis.plot(steps, values, color="0.8", linewidth=0.8)
    axis.plot(steps[width - 1 :], mean, color="tab:blue")
    axis.set_ylim(0, max(float(np.percentile(values, 97)), 1e-6) * 1.1)


def means_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}

"""Reliability diagrams: of the voxels with probability p, the share that belongs to the target."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from latentseg.metrics.calibration import FEWEST, Reliability
from latentseg.report.cohort_cases import Finding
from latentseg.report.page import Chart, Charts

SIDE, MARGIN = 240, 38  # of the plot, and around it
NOTE = (
    "Voxels of all compared scans, in ten bins of the saved probability. On the diagonal, 70 % is right for "
    "70 % of the voxels; above it the model is too modest, below it too sure. The calibration error is the "
    f"mean distance from it over the voxels of 10 % and more. Bins of fewer than {FEWEST} are not drawn."
)


def reliability_charts(found: Iterable[Finding]) -> Charts | None:
    """One curve per target, over all scans that have a truth and a saved probability; None without any."""
    counts: dict[str, list[Reliability]] = {}
    for finding in found:
        if finding.reliability is not None:
            counts.setdefault(str(finding.row["target"]), []).append(finding.reliability)
    charts = [_chart(target, reduce(Reliability.__add__, parts)) for target, parts in counts.items()]
    return Charts("Calibration", charts, NOTE) if charts else None


def _chart(target: str, counts: Reliability) -> Chart:
    error = counts.error
    said = "no voxel of 10 % or more" if error is None else f"calibration error {100 * error:.1f} %"
    return Chart(target, plot(counts.points), said)


def plot(points: list[tuple[float, float]]) -> str:
    """A curve in the unit square with its diagonal, as SVG."""
    places = [(MARGIN + SIDE * x, 8 + SIDE * (1 - y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places)
    wide, high = SIDE + MARGIN + 10, SIDE + MARGIN + 12
    ticks = "".join(_tick(value) for value in (0, 0.5, 1))
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="Reliability curve">'
        f'<rect class="frame" x="{MARGIN}" y="8" width="{SIDE}" height="{SIDE}"/>'
        f'<line class="ideal" x1="{MARGIN}" y1="{8 + SIDE}" x2="{MARGIN + SIDE}" y2="8"/>{ticks}'
        f'<polyline points="{path}"/>{dots}'
        f'<text x="{MARGIN + SIDE / 2}" y="{high - 3}" text-anchor="middle">probability, %</text>'
        f'<text transform="translate(10 {8 + SIDE / 2}) rotate(-90)" text-anchor="middle">'
        "in the target, %</text>"
        "</svg>"
    )


def _tick(value: float) -> str:
    x, y = MARGIN + SIDE * value, 8 + SIDE * (1 - value)
    return (
        f'<text x="{x}" y="{SIDE + 24}" text-anchor="middle">{100 * value:.0f}</text>'
        f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{100 * value:.0f}</text>'
    )

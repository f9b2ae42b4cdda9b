"""The page of a batch: how it was made, what to look at first, every result, every failure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from latentseg.evaluation.label_maps import MetricOptions
from latentseg.imaging.previews import PREDICTION, TRUTH
from latentseg.methods.results import file_name
from latentseg.report.cohort import Run
from latentseg.report.cohort_cases import Finding
from latentseg.report.cohort_scores import score_cells, score_columns, scores_table
from latentseg.report.page import Case, Page, Section, Table
from latentseg.report.reliability import reliability_charts

FIRST = 10  # results in the list of those to look at first
CITATIONS = {
    "support_mode": "Few-shot method: SD-FSMIS (arXiv 2604.03134).",
    "refinement": "Method of prompts: DiffuGTS (CVPR 2025).",
}
"""What to cite, by an option that only this method has."""


def cohort_page(
    run: Run,
    found: Iterable[Finding],
    *,
    metrics: MetricOptions | None = None,
    folder: Path | None = None,
) -> Page:
    """The page.

    Args:
        run: The run.
        found: Every target of every case that is done.
        metrics: How results were compared with a truth; None where there is none.
        folder: Where the page will be, for its links to masks; default: the folder of the run.
    """
    ranked, compared = sorted(found, key=lambda finding: int(finding.row["rank"])), metrics is not None
    tables = [first_table(ranked), results_table(ranked, compared=compared), failures_table(run)]
    if metrics:
        tables.insert(1, scores_table(ranked, failed=len(run.failed), tolerance_mm=metrics.tolerance_mm))
    charts = reliability_charts(ranked)
    return Page(
        title=f"{', '.join(targets_of(run)) or 'No target'} in {counted(len(run.records), 'scan')}",
        subtitle=subtitle(run),
        run_card=run_card(run),
        tables=[table for table in tables if table.rows],
        charts=[charts] if charts else [],
        sections=[cases_section(ranked, folder or run.folder, compared=compared)] if ranked else [],
        appendix=[weights_table(run)],
        notes=notes(run),
    )


def targets_of(run: Run) -> list[str]:
    """The targets, in the order they were asked for."""
    return list(dict.fromkeys(name for method in run.methods for name in method.get("targets", ())))


def subtitle(run: Run) -> str:
    """What became of the cases, and whether the run came to its end."""
    text = f"{counted(len(run.done), 'scan')} segmented, {len(run.failed)} failed."
    unfinished = {str(one.get("status")) for one in run.manifests} - {"finished"}
    if unfinished:
        text += f" The run did not come to its end ({', '.join(sorted(unfinished))}): scans may be missing."
    return text


def run_card(run: Run) -> list[tuple[str, str]]:
    """How the run was made."""
    last = run.manifests[0]
    versions = last.get("versions", {})
    machine = last.get("machine", {})
    facts = [
        ("Version", f"latentseg {last.get('latentseg', '?')}"),
        ("Backbone", ", ".join(str(method.get("backbone", "?")) for method in run.methods)),
        ("License of the weights", ", ".join(str(m.get("license", "?")) for m in run.methods)),
        ("Seed", ", ".join(str(m["seed"]) for m in run.methods if "seed" in m) or "nothing is drawn"),
        ("Started", shown_time(last.get("started"))),
        ("Finished", shown_time(last.get("finished"))),
        ("Time per scan", times(run)),
        ("Machine", f"{machine.get('system', '?')}, {machine.get('cpus', '?')} CPUs"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Command", command(last)),
        *(("Options", flat(m["options"])) for m in run.methods if m.get("options")),
    ]
    if last.get("shard"):
        facts.append(("Shards", ", ".join(str(one.get("shard")) for one in run.manifests)))
    return facts


def first_table(ranked: Sequence[Finding]) -> Table:
    """The results that a person should look at first, and why."""
    first = ranked[:FIRST]
    rows = [
        [
            *(str(finding.row["rank"]), finding.row["case"], finding.row["target"]),
            *(finding.row["why"] or "nothing stands out", number(finding.row["review"])),
        ]
        for finding in first
    ]
    note = "In the order of uncertainty, doubt about presence, and contact with the border, added up."
    columns = ["rank", "case", "target", "why", "review"]
    return Table("Look at these first", columns, rows, note=note, anchors=[anchor_of(f) for f in first])


def results_table(ranked: Sequence[Finding], *, compared: bool) -> Table:
    """Every result."""
    columns = ["rank", "case", "target", *(score_columns() if compared else ())]
    columns += ["found", "presence", "uncertainty", "volume ml", "diameter mm", "parts", "at border"]
    columns.append("warnings")
    note = (
        "Presence: score that the target is in the scan at all. Uncertainty: mean entropy, in bits, of the "
        "voxels in question; 0 is sure, 1 is a guess. Diameter: the longest line in an axial slice. Parts: "
        "separate components. Press a heading to sort."
    )
    rows = [result_cells(finding, compared=compared) for finding in ranked]
    return Table("All results", columns, rows, note=note, anchors=[anchor_of(f) for f in ranked])


def result_cells(finding: Finding, *, compared: bool) -> list[str]:
    """One row of the table of all results."""
    row = finding.row
    return [
        *(str(row["rank"]), row["case"], row["target"]),
        *(score_cells(finding.score) if compared else ()),
        *("absent" if row["absent"] else "yes", number(row["presence"]), number(row["uncertainty"])),
        *(f"{row['volume_ml']:.1f}", diameter(row), str(row["components"])),
        "yes" if row["touches_border"] else "no",
        "yes" if finding.notes else "no",
    ]


def failures_table(run: Run) -> Table:
    """The cases without results, each with its reason."""
    rows = [
        [record.case, *(str((record.error or {}).get(name, "")) for name in ("code", "what", "where", "fix"))]
        for record in run.failed
    ]
    return Table("Failures", ["case", "code", "what", "where", "what to do"], rows)


def weights_table(run: Run) -> Table:
    """Every file of weights with its hash and licence."""
    rows = [
        [str(method.get("backbone", "?")), name, str(sha256), str(method.get("license", "?"))]
        for method in run.methods
        for name, sha256 in files_of(method).items()
    ]
    return Table("Weights and licenses", ["model", "file", "sha256", "license"], rows)


def files_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The sha256 of all files of a model, its own and those that were given beside it."""
    own = method.get("own_weights", {})
    return {**method.get("files", {}), **own.get("files", {})}


def cases_section(ranked: Sequence[Finding], folder: Path, *, compared: bool) -> Section:
    """Pictures of every result."""
    legend = [(PREDICTION, "found"), *([(TRUTH, "truth")] if compared else [])]
    without = sum(not finding.panels for finding in ranked)
    intro = f"In the order of review. {without} without pictures." if without else "In the order of review."
    still = sum(bool(finding.panels) and finding.viewer is None for finding in ranked)
    intro += f" {still} without slices to scroll: there was no room, or no scan." if still else ""
    return Section("Cases", [case_of(finding, folder) for finding in ranked], intro, legend)


def case_of(finding: Finding, folder: Path) -> Case:
    """One result, on a page in a folder."""
    row, score = finding.row, finding.score
    facts = [
        *(zip(score_columns(), score_cells(score), strict=True) if score else ()),
        ("presence", number(row["presence"])),
        ("uncertainty", number(row["uncertainty"])),
        ("volume", "absent" if row["absent"] else f"{row['volume_ml']:.1f} ml"),
        ("parts", str(row["components"])),
        *measured(row),
    ]
    title = f"{row['rank']}. {row['case']}: {row['target']}"
    return Case(
        title,
        finding.panels,
        row["why"],
        facts=facts,
        notes=finding.notes,
        anchor=anchor_of(finding),
        links=[(name, address_of(path, folder)) for name, path in finding.files],
        viewer=finding.viewer,
    )


def diameter(row: Mapping[str, Any]) -> str:
    """The largest axial diameter of a result; a dash in runs of earlier versions."""
    value = row.get("largest_axial_diameter_mm")
    return "–" if value is None else f"{value:.0f}"


def measured(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Diameter and intensities of a result; runs of earlier versions do not hold them."""
    if row["absent"] or row.get("intensity_mean") is None:
        return []
    return [
        ("largest axial diameter", f"{row['largest_axial_diameter_mm']:.0f} mm"),
        ("intensity", f"{row['intensity_mean']:.0f} ± {row['intensity_sd']:.0f}"),
    ]


def address_of(path: Path, folder: Path) -> str:
    """A file as it is addressed from a page in a folder."""
    try:
        return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
    except ValueError:  # another drive of Windows
        return path.resolve().as_uri()


def notes(run: Run) -> list[str]:
    """Citations, and what each licence asks for."""
    cited = [text for option, text in CITATIONS.items() if any(option in flat_keys(m) for m in run.methods)]
    urls = dict.fromkeys(str(m["license_url"]) for m in run.methods if m.get("license_url"))
    return [*cited, *(f"License of the weights: {url}" for url in urls)]


def flat_keys(method: Mapping[str, Any]) -> set[str]:
    """Names of the options of a method."""
    return set(method.get("options", {}))


def anchor_of(finding: Finding) -> str:
    """Where on the page a result is."""
    return f"case-{finding.row['case']}-{file_name(finding.row['target'])}"


def times(run: Run) -> str:
    """Median of the time that a scan took, by what it was spent on."""
    spent = [record.seconds for record in run.done if record.seconds]
    if not spent:
        return "–"
    parts = {name: median(one.get(name, 0.0) for one in spent) for name in ("read", "segment", "write")}
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()) + " (median)"


def command(manifest: Mapping[str, Any]) -> str:
    """What was typed."""
    words = [str(word) for word in manifest.get("command", ())]
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else "–"


def flat(options: Mapping[str, Any], prefix: str = "") -> str:
    """Options as one line, those of parts under the name of the part."""
    parts = []
    for name, value in options.items():
        if isinstance(value, dict):
            parts.append(flat(value, f"{prefix}{name}."))
        else:
            parts.append(f"{prefix}{name}={value}")
    return ", ".join(parts)


def shown_time(text: object) -> str:
    """A time of the manifest as people read it."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M:%S %Z")
    except ValueError:
        return "–"


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float) -> str:
    """A score with two decimals."""
    return f"{value:.2f}"

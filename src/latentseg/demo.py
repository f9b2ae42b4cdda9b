"""The demo: an organ that is marked in one scan is found in others, phantoms or real scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching
from latentseg.evaluation.datasets import CHAOS, SABS, Dataset
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP1, Outcome, run_protocol
from latentseg.evaluation.rows import Row
from latentseg.evaluation.slices import SliceMethod
from latentseg.evaluation.tables import summarize, table_cells
from latentseg.imaging import normalize, to_canonical
from latentseg.imaging.previews import PREDICTION, SUPPORT, TRUTH, Canvas, Layer, heatmap, key_slices, overlay
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support import Support
from latentseg.methods.results import Segmentation
from latentseg.metrics.overlap import dice
from latentseg.phantom.bodies import Phantom, abdomen
from latentseg.report.page import Case, Page, Panel, Section, Table, write_page
from latentseg.version import __version__

PHANTOM_TARGETS = ("liver", "spleen", "kidney_left")
PHANTOM_SHAPE = (256, 256, 32)
LEGEND = ((SUPPORT, "marked in the support"), (PREDICTION, "found"), (TRUTH, "truth"))
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoOptions:
    """What to show.

    Attributes:
        out: Folder of the page and of the phantom's masks.
        queries: Real scans to segment per data set.
        seed: Of the phantoms.
    """

    out: Path
    queries: int = 1
    seed: int = 0


def run(segmenter: FewShotSegmenter, options: DemoOptions, *, say: Say) -> tuple[Path, list[Table]]:
    """Segment, write ``demo.html``, and return its path with the Dice tables."""
    say("phantoms: three organs shown in one, found in two others (CT and MR)")
    section, rows = phantom_section(segmenter, options)
    sections = [section]
    tables = [Table("Phantoms, whole volumes", ["query", "target", "Dice", "volume", "presence"], rows)]
    outcomes: list[Outcome] = []
    for name, protocol in real_protocols():
        say(f"{name}: scans to search: {options.queries}")
        some = list(run_protocol(protocol, methods=demo_methods(segmenter), queries=options.queries))
        outcomes += some
        sections.append(real_section(name, some))
    if outcomes:
        tables.append(dice_table([outcome.row for outcome in outcomes]))
    else:
        say("no real scans here: set LATENTSEG_DATA to a folder with sabs/ and chaos_t2/ to see them too")
    page = Page(
        "Show it once, find it everywhere",
        "An organ is marked in a few slices of one scan and found in other scans. No test patient, and none "
        "of the four benchmark organs' labels, was used in training.",
        run_card=run_card(segmenter, options),
        tables=tables,
        sections=sections,
        notes=[
            "SABS: Landman et al., MICCAI 2015 BTCV challenge.",
            "CHAOS: Kavur et al., Medical Image Analysis 2021.",
            "Method: SD-FSMIS (arXiv 2604.03134), on the compact backbone of this package.",
        ],
    )
    return write_page(page, path=options.out / "demo.html"), tables


def run_card(segmenter: FewShotSegmenter, options: DemoOptions) -> list[tuple[str, str]]:
    """What produced the page."""
    return [
        ("Version", f"latentseg {__version__}"),
        ("Weights", f"{segmenter.networks.backbone.name} {segmenter.fingerprint}"),
        ("Seed", str(options.seed)),
        ("Date", datetime.now(UTC).date().isoformat()),
    ]


def phantom_section(segmenter: FewShotSegmenter, options: DemoOptions) -> tuple[Section, list[list[str]]]:
    """One phantom shows organs, two others are searched for them, whole volumes."""
    shown = abdomen(seed=options.seed, modality="CT", shape=PHANTOM_SHAPE)
    contexts = [segmenter.encode(phantom_support(shown, name)) for name in PHANTOM_TARGETS]
    cases, rows = [], []
    for number, modality in enumerate(("CT", "MR"), start=1):
        query = abdomen(
            seed=options.seed + number, modality="MR" if modality == "MR" else "CT", shape=PHANTOM_SHAPE
        )
        results = segmenter(query.image, contexts)
        results.save(options.out / f"phantom-{modality.lower()}")
        for name, result in results.items():
            truth = query.labels.array == label_of(query, name)
            score = dice(result.mask, truth)
            title = f"{modality} phantom, {name.replace('_', ' ')}"
            facts = [("Dice", f"{score:.2f}"), ("volume", f"{result.volume_ml:.0f} ml")]
            panels = [phantom_panel(shown, name), *volume_panels(result, truth)]
            cases.append(Case(title, panels, facts=facts))
            found = f"{result.volume_ml:.0f} ml"
            rows.append([f"{modality} phantom", name, f"{score:.3f}", found, f"{result.presence:.2f}"])
    return Section("Phantoms", cases, "Procedural anatomy, three support slices each.", LEGEND), rows


def phantom_support(phantom: Phantom, name: str) -> Support:
    """Three slices of one organ of a phantom."""
    return Support.from_volumes(phantom.image, phantom.labels, name=name, label=label_of(phantom, name))


def label_of(phantom: Phantom, name: str) -> int:
    """Label id of an organ of a phantom."""
    return next(label for label, organ in phantom.names.items() if organ == name)


def phantom_panel(phantom: Phantom, name: str) -> Panel:
    """The middle support slice with its mask."""
    support = phantom_support(phantom, name)
    middle = len(support) // 2
    layer = Layer(support.masks[middle], SUPPORT, "both")
    return Panel("Support", overlay(support.images[middle], layers=[layer]), "one of its slices")


def volume_panels(result: Segmentation, truth: NDArray[np.bool_]) -> list[Panel]:
    """Slices of a scan with what was found and the truth, and one probability map."""
    canonical = to_canonical(result.scan)
    values = normalize(canonical.slices, modality=result.scan.modality)
    found, real, chance = map(canonical.apply, (result.mask, truth, result.probability))
    canvas = Canvas(spacing_mm=canonical.spacing_mm[1:])
    panels = [
        Panel(
            f"Slice {k}", overlay(values[k], layers=[Layer(real[k], TRUTH), Layer(found[k])], canvas=canvas)
        )
        for k in key_slices(real, count=2)
    ]
    k = key_slices(real, count=1)[0]
    return [
        *panels,
        Panel("Probability", heatmap(values[k], probability=chance[k], canvas=canvas), f"slice {k}"),
    ]


def real_protocols() -> list[tuple[str, EP1]]:
    """The settings whose data are on this machine."""
    settings: list[tuple[str, Dataset, Dataset]] = [
        ("CT shows, CT is searched (SABS)", SABS, SABS),
        ("MR shows, MR is searched (CHAOS)", CHAOS, CHAOS),
        ("CT shows, MR is searched (SABS to CHAOS)", CHAOS, SABS),
    ]
    return [
        (name, EP1(query, support_dataset=support))
        for name, query, support in settings
        if _has_fold(query) and _has_fold(support)
    ]


def _has_fold(dataset: Dataset) -> bool:
    present = set(dataset.present())
    return {dataset.ids[position] for position in dataset.folds[0]} <= present


def demo_methods(segmenter: FewShotSegmenter) -> list[SliceMethod]:
    """The segmenter, and both baselines beside it."""
    return [FewShotMethod(segmenter), PrototypeMatching(segmenter.networks.backbone), MaskCopy()]


def real_section(name: str, outcomes: Sequence[Outcome]) -> Section:
    """Pictures of the segmenter's results in one setting."""
    ours = [outcome for outcome in outcomes if outcome.row.method.startswith("SD-FSMIS")]
    return Section(
        name, [real_case(outcome) for outcome in islice(ours, 8)], "EP1: slices that hold the organ.", LEGEND
    )


def real_case(outcome: Outcome) -> Case:
    """One organ of one scan: the support, three slices, one probability map."""
    row, query = outcome.row, outcome.query
    middle = len(outcome.support.images) // 2
    shown = Layer(outcome.support.masks[middle], SUPPORT, "both")
    panels = [
        Panel("Support", overlay(outcome.support.images[middle], layers=[shown]), f"scan {row.support_case}")
    ]
    for k in key_slices(outcome.truth, count=3):
        layers = [Layer(outcome.truth[k], TRUTH), Layer(outcome.probability[k], PREDICTION)]
        panels.append(Panel(f"Slice {k}", overlay(query.images[k], layers=layers)))
    k = key_slices(outcome.truth, count=1)[0]
    panels.append(
        Panel("Probability", heatmap(query.images[k], probability=outcome.probability[k]), f"slice {k}")
    )
    facts = [("Dice", f"{row.dice:.2f}"), ("volume", f"{row.volume_ml:.0f} of {row.truth_volume_ml:.0f} ml")]
    return Case(f"{row.dataset} {row.case}, {row.organ.replace('_', ' ')}", panels, facts=facts)


def dice_table(rows: Sequence[Row]) -> Table:
    """The Dice table of all real scans."""
    header, body = table_cells(summarize(rows))
    strong = [i for i, cells in enumerate(body) if cells[2].startswith("SD-FSMIS")]
    note = (
        "EP1, per-patient mean Dice in percent, first scans of fold 0 only: a demonstration, not a benchmark."
        " The whole protocol is `latentseg evaluate fewshot`."
    )
    return Table("Real scans", header, body, strong=strong, note=note)

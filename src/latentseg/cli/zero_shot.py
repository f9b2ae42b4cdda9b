"""`latentseg evaluate tumor`: the zero-shot protocol of tumors that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.cli.progress import Progress
from latentseg.cli.segment import BackboneOption, DeviceOption, Preset, read_preset, split_names
from latentseg.errors import UsageError

if TYPE_CHECKING:
    from latentseg.evaluation.zero_shot import CategorySummary, SliceRow, TumorMethod
    from latentseg.methods.tumor.segmenter import TumorSegmenter
    from latentseg.training.tumor.volumes import TumorFolder

METHODS = ("tumor", "learned", "outlier", "restore")
NOTE = (
    "Dice, NSD: mean over patients of the slices with tumor, 95 % bootstrap interval over patients. Controls "
    "are healthy slices. Reported by the authors of DiffuGTS (CVPR 2025), on whole volumes with full-size "
    "3-D MAISI, read secondhand: liver 63.2, lung 42.9, kidney 59.8; ZePT (CVPR 2024), kidney 48.8."
)


def tumor(
    category: Annotated[
        str, typer.Option(help="Comma-separated: liver, lung, kidney, glioma, sarcoma, or 'all'.")
    ] = "all",
    weights: Annotated[
        Path | None, typer.Option(help="Weights trained without the category; default: the backbone's own.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help=f"What to run, of {','.join(METHODS)}: learned is tumor with learned fusion.")
    ] = ",".join(METHODS),
    preset: Preset = "recommended",
    backbone: BackboneOption = "compact",
    device: DeviceOption = "auto",
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder in the layout of nnU-Net, evaluated by whole volumes instead; repeatable."),
    ] = None,
    prompt: Annotated[str, typer.Option(help='Of --data: what is asked for, such as "liver tumor".')] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="Of --data: name of a label that is the tumor; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first scans and controls, for a trial.", min=1)
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of table.md, cases.csv, results.json.")
    ] = Path("evaluation"),
    as_json: AsJson = False,
) -> None:
    """Tumor segmentation by prompt: slices of a category beside two baselines, or whole volumes of --data."""
    import latentseg as ls
    from latentseg.evaluation.datasets.tumors import CATEGORIES, get_category
    from latentseg.evaluation.zero_shot import category_cells, evaluate_category, summarize_categories
    from latentseg.methods.results import check_writable

    check_writable(out)
    if data:
        options = read_preset(preset)
        segmenter = ls.load("tumor", backbone=backbone, weights=weights, options=options, device=device)
        folders = volume_folders(data, prompt=prompt, labels=label or [])
        volumes(folders, segmenter, out=out, about={"preset": preset}, limit=limit)
        return
    names = list(CATEGORIES) if category == "all" else split_names(category) or []
    if not names:
        raise UsageError("no category", where="--category", fix=f"choose from {', '.join(CATEGORIES)}, all")
    chosen = [get_category(name) for name in names]
    wanted = split_names(methods) or []
    if not wanted or not set(wanted) <= set(METHODS):
        raise UsageError(f"unknown methods {methods!r}", fix=f"choose from {', '.join(METHODS)}")
    options = read_preset(preset)
    segmenter = ls.load("tumor", backbone=backbone, weights=weights, options=options, device=device)
    made = make_methods(wanted, segmenter)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": ls.__version__,
        "weights": segmenter.fingerprint,
        "trained without": ", ".join(segmenter.networks.without) or "nothing left out",
        "preset": preset,
        **({"limit": limit} if limit else {}),
    }
    rows: list[SliceRow] = []
    with Progress("evaluate tumor") as progress:
        for done, one in enumerate(chosen):
            progress(done, len(chosen), one.prompt)
            if one.prompt_concept not in segmenter.networks.without:
                progress.say(f"warning: these weights were not trained without {one.prompt!r}")
            for row in evaluate_category(one, made, limit=limit):
                rows.append(row)
                progress.say(f"{row.case} slice {row.slice} {row.method}: {row.said}")
            summaries = summarize_categories(rows)
            # a run that is stopped keeps what is whole
            write_tables(rows, summaries, folder=out, about=about)
    if as_json:
        show_json([asdict(summary) for summary in summaries])
        return
    show_table(*category_cells(summaries))
    typer.echo(f"\n{NOTE}\nwritten to {out}")


def volume_folders(data: Sequence[Path], *, prompt: str, labels: Sequence[str]) -> list[TumorFolder]:
    """Data sets of the options; scans of all of a folder are evaluated.

    Raises:
        UsageError: A prompt or a label is missing.
    """
    from latentseg.training.tumor.volumes import TumorFolder

    if not prompt or not labels:
        what = "no prompt" if not prompt else "no label"
        fix = 'give both, such as --prompt "liver tumor" --label cancer'
        raise UsageError(f"{what} for the folders of --data", where="--data", fix=fix)
    return [TumorFolder(folder=one, prompt=prompt, labels=tuple(labels), share=0.0) for one in data]


def volumes(
    data: Sequence[TumorFolder],
    segmenter: TumorSegmenter,
    *,
    out: Path,
    about: dict[str, Any],
    limit: int | None = None,
) -> None:
    """Evaluate whole volumes, show the table and write it."""
    from latentseg.evaluation.reproduce_diffugts import write_volume_tables
    from latentseg.evaluation.tumor_methods import DiffuGTS
    from latentseg.evaluation.tumor_volumes import summarize_volumes, volume_row, volume_table
    from latentseg.training.tumor.volumes import VolumeFiles

    rows, networks = [], segmenter.networks
    method = DiffuGTS(segmenter, f"DiffuGTS ({networks.backbone.name})")
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "weights": segmenter.fingerprint,
        "trained without": ", ".join(networks.without) or "nothing left out",
        **about,
        **({"limit": limit} if limit else {}),
    }
    files = [VolumeFiles(one) for one in data]
    with Progress("evaluate tumor") as progress:
        for done, one in enumerate(files):
            progress(done, len(files), one.data.title)
            for case in one.cases(one.training[:limit]):
                found = method(case.image, one.data.prompt)
                names = {"method": method.name, "data": one.data.title, "prompt": one.data.prompt}
                rows.append(row := volume_row(case, found, **names))
                progress.say(f"{row.data} {row.case}: {row.said}")
    write_volume_tables(rows, folder=out, about=facts)
    table = volume_table(summarize_volumes(rows))
    show_table(table.header, table.body)
    typer.echo("\n".join(["", *table.notes, f"written to {out}"]))


def make_methods(names: Sequence[str], segmenter: TumorSegmenter) -> list[TumorMethod]:
    """Methods by name; where the map draws the mask, no pseudo-healthy image is made for it."""
    from latentseg.evaluation.tumor_methods import DiffuGTS, IntensityOutlier, NoiseAndRestore
    from latentseg.methods.diffugts.refinement import RefinementOptions
    from latentseg.methods.tumor.segmenter import TumorSegmenter

    options, refinement = segmenter.options, segmenter.options.refinement or RefinementOptions()
    learned = replace(options, refinement=replace(refinement, fusion="learned"))
    if refinement.fusion == "map":
        segmenter = TumorSegmenter(segmenter.networks, options=replace(options, refinement=None))
    made: dict[str, TumorMethod] = {
        "tumor": DiffuGTS(segmenter),
        "learned": DiffuGTS(TumorSegmenter(segmenter.networks, options=learned), "+ learned fusion"),
        "outlier": IntensityOutlier(),
        "restore": NoiseAndRestore(segmenter.networks.backbone),
    }
    return [made[name] for name in names]


def write_tables(
    rows: Sequence[SliceRow], summaries: Sequence[CategorySummary], *, folder: Path, about: dict[str, Any]
) -> None:
    """Write `cases.csv`, `results.json` and `table.md`.

    Raises:
        InputError: The folder cannot be written.
    """
    from latentseg.evaluation.page import Section
    from latentseg.evaluation.tumor_rows import write_tumor_tables
    from latentseg.evaluation.zero_shot import category_cells

    table = Section("Zero-shot evaluation of tumors", *category_cells(summaries), (NOTE,))
    write_tumor_tables(rows, table, summaries=summaries, folder=folder, about=about)

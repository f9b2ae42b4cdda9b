"""`latentseg evaluate tumor`: the zero-shot protocol of tumors that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentseg.cli import shared
from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.cli.progress import Progress
from latentseg.cli.request import preset_options
from latentseg.cli.shared import read_choices, split_names
from latentseg.errors import UsageError

if TYPE_CHECKING:
    from latentseg.evaluation.datasets.tumors import Category
    from latentseg.evaluation.zero_shot import CategorySummary, SliceRow, TumorMethod
    from latentseg.methods.tumor.segmenter import TumorSegmenter
    from latentseg.training.tumor.volumes import TumorFolder

METHODS = ("tumor", "learned", "outlier", "restore")
EVERY = ",".join(METHODS)
CategoryOption = Annotated[
    str, typer.Option("--category", help="Comma-separated: liver, lung, kidney, glioma, sarcoma, or 'all'.")
]
TumorWeights = Annotated[
    Path | None,
    typer.Option("--weights", help="Trained without it: a file, or a folder with those of regions."),
]
Methods = Annotated[str, typer.Option(help=f"What to run, of {EVERY}: learned is tumor with learned fusion.")]
Data = Annotated[
    list[Path] | None,
    typer.Option(help="Folder in the layout of nnU-Net, evaluated by whole volumes instead; repeatable."),
]
Prompt = Annotated[str, typer.Option(help='Of --data: what is asked for, such as "liver tumor".')]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="Of --data: name of a label that is the tumor; repeatable."),
]
Limit = Annotated[int | None, typer.Option(help="Only the first scans and controls, for a trial.", min=1)]


def tumor(
    category: CategoryOption = "all",
    weights: TumorWeights = None,
    methods: Methods = EVERY,
    preset: shared.Preset = "recommended",
    backbone: shared.BackboneOption = "compact",
    device: shared.DeviceOption = "auto",
    data: Data = None,
    prompt: Prompt = "",
    label: Labels = None,
    limit: Limit = None,
    out: shared.EvaluationOut = Path("evaluation"),
    as_json: AsJson = False,
) -> None:
    """Tumor segmentation by prompt: slices of a category beside two baselines, or whole volumes of --data."""
    import latentseg as ls
    from latentseg.evaluation.zero_shot import NOTE, category_cells
    from latentseg.methods.results import check_writable

    check_writable(out)
    chosen, wanted = read_categories(category), read_choices(methods, METHODS, option="methods")
    folders = volume_folders(data, prompt=prompt, labels=label or []) if data else []
    options = preset_options(preset)
    segmenter = ls.load("tumor", backbone=backbone, weights=weights, options=options, device=device)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": ls.__version__,
        "weights": segmenter.fingerprint,
        "trained without": ", ".join(segmenter.networks.without) or "nothing left out",
        "preset": preset,
        **({"limit": limit} if limit else {}),
    }
    if folders:
        volumes(folders, segmenter, out=out, about=about, limit=limit)
        return
    summaries = slices(chosen, wanted, segmenter, out=out, about=about, limit=limit)
    if as_json:
        show_json([asdict(summary) for summary in summaries])
    else:
        show_table(*category_cells(summaries))
        typer.echo(f"\n{NOTE}\nwritten to {out}")


def slices(
    categories: Sequence[Category],
    methods: Sequence[str],
    segmenter: TumorSegmenter,
    *,
    out: Path,
    about: dict[str, Any],
    limit: int | None = None,
) -> list[CategorySummary]:
    """Evaluate categories slice by slice, and write the table after each: a run that is stopped keeps it."""
    from latentseg.evaluation import zero_shot

    made, without = make_methods(methods, segmenter), segmenter.networks.without
    rows: list[SliceRow] = []
    summaries: list[CategorySummary] = []
    with Progress("evaluate tumor") as progress:
        for done, one in enumerate(categories):
            progress(done, len(categories), one.prompt)
            if one.prompt_concept not in without:
                progress.say(f"warning: these weights were not trained without {one.prompt!r}")
            for row in zero_shot.evaluate_category(one, made, limit=limit):
                rows.append(row)
                progress.say(f"{row.case} slice {row.slice} {row.method}: {row.said}")
            summaries = zero_shot.summarize_categories(rows)
            zero_shot.write_category_tables(rows, summaries, folder=out, about=about)
    return summaries


def read_categories(text: str) -> list[Category]:
    """Categories by name.

    Raises:
        UsageError: None, or one that does not exist.
    """
    from latentseg.evaluation.datasets.tumors import CATEGORIES, get_category

    names = list(CATEGORIES) if text == "all" else split_names(text)
    if not names:
        raise UsageError("no category", where="--category", fix=f"choose from {', '.join(CATEGORIES)}, all")
    return [get_category(name) for name in names]


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
    from latentseg.evaluation import tumor_volumes
    from latentseg.evaluation.reproduce_diffugts import write_volume_tables
    from latentseg.evaluation.tumor_methods import DiffuGTS
    from latentseg.training.tumor.volumes import VolumeFiles

    rows = []
    method = DiffuGTS(segmenter, f"DiffuGTS ({segmenter.networks.backbone.name})")
    files = [VolumeFiles(one) for one in data]
    with Progress("evaluate tumor") as progress:
        for done, one in enumerate(files):
            progress(done, len(files), one.data.title)
            for case in one.cases(one.training[:limit]):
                found = method(case.image, one.data.prompt)
                names = {"method": method.name, "data": one.data.title, "prompt": one.data.prompt}
                rows.append(row := tumor_volumes.volume_row(case, found, **names))
                progress.say(f"{row.data} {row.case}: {row.said}")
    write_volume_tables(rows, folder=out, about=about)
    table = tumor_volumes.volume_table(tumor_volumes.summarize_volumes(rows))
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

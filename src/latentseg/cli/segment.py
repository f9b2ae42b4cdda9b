"""`latentseg segment`: one scan, any number of targets shown in examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from latentseg.cli.output import show_table
from latentseg.errors import UsageError

if TYPE_CHECKING:
    from latentseg.api import Precision
    from latentseg.fewshot.context import SupportContext, SupportMode
    from latentseg.fewshot.support import Support
    from latentseg.imaging.intensity import Modality
    from latentseg.results import Segmentations

app = typer.Typer()


@app.command()
def segment(
    image: Annotated[
        Path, typer.Argument(help="The scan: NIfTI, NRRD, MHA, PNG, TIFF, or a folder of slices.")
    ],
    support: Annotated[
        list[Path],
        typer.Option(
            "--support", "-s", help="A folder of examples, one IMAGE,MASK pair, or a .safetensors context."
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="What to segment; default: all the support names."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("out"),
    save: Annotated[str, typer.Option(help="What to write: any of mask,prob,preview.")] = "mask,prob,preview",
    label: Annotated[int | None, typer.Option(help="Label id of the target in IMAGE,MASK pairs.")] = None,
    combined: Annotated[
        str | None,
        typer.Option(help="Also write one label map; targets in order of priority, comma-separated."),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MR, where the files do not tell.")] = None,
    orientation: Annotated[
        str | None,
        typer.Option(help="Axis codes such as LAS that overrule wrong affines of scan and support."),
    ] = None,
    support_mode: Annotated[
        str, typer.Option(help="nearest or joint: how several support slices are used.")
    ] = "nearest",
    backbone: Annotated[
        str, typer.Option(help="A model of `latentseg models list`, or its folder.")
    ] = "compact",
    weights: Annotated[
        Path | None, typer.Option(help="Few-shot weights for a backbone that brings none.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """Segment a scan from examples; masks are written on exactly the scan's grid."""
    import latentseg as ls
    from latentseg.fewshot.segmenter import SegmentOptions

    kind = read_modality(modality)
    mode = read_mode(support_mode)
    targets = read_targets(support, target, label=label, modality=kind, orientation=orientation)
    scan = ls.read(image, modality=kind, orientation=orientation)
    segmenter = ls.load(
        "fewshot",
        backbone=backbone,
        weights=weights,
        options=SegmentOptions(support_mode=mode),
        precision=cast("Precision", precision),
    )
    results = segmenter(scan, targets, on_progress=show_progress)
    results.save(out, what=[part.strip() for part in save.split(",") if part.strip()])
    if combined:
        write_combined(results, [name.strip() for name in combined.split(",")], out)
    rows = [
        (
            s["target"],
            "absent" if s["absent"] else f"{s['volume_ml']:.1f} ml",
            f"{s['presence']:.2f}",
            s["components"],
        )
        for s in (result.stats() for result in results.values())
    ]
    show_table(("target", "volume", "presence", "parts"), rows)
    typer.echo(f"written to {out / scan.name}")


def read_targets(
    supports: list[Path],
    names: list[str] | None,
    *,
    label: int | None = None,
    modality: Modality | None = None,
    orientation: str | None = None,
) -> list[Support | SupportContext]:
    """The targets of the `--support` and `--target` options.

    Raises:
        UsageError: A pair without a name, or a target that no support knows.
        InputError: A support that cannot be used.
    """
    from latentseg.fewshot.context import SupportContext
    from latentseg.fewshot.support import Support, SupportFolder

    found: dict[str, Support | SupportContext] = {}
    for path in supports:
        if path.suffix == ".safetensors":
            context = SupportContext.load(path)
            found[context.name] = context
        elif "," in str(path):
            image, mask = str(path).split(",", 1)
            name = names[0] if names and len(names) == 1 else Path(mask).name.split(".")[0]
            found[name] = Support.from_files(
                [(image, mask)], name=name, label=label, modality=modality, orientation=orientation
            )
        else:
            wanted = [n for n in names or [] if n not in found] or list(SupportFolder(path).names)
            for name in wanted or [path.name]:
                found[name] = Support.from_folder(
                    path, target=name, modality=modality, orientation=orientation
                )
    missing = [name for name in names or [] if name not in found]
    if missing:
        raise UsageError(f"no support shows {missing[0]!r}", fix=f"choose from {', '.join(found)}")
    return [found[name] for name in names or found]


def write_combined(results: Segmentations, priority: list[str], out: Path) -> None:
    """Write one label map with its names, and say how much overlap the priority decided."""
    import json

    from latentseg.imaging import default_suffix, write_like
    from latentseg.results import write_bytes

    labels, overlap = results.combined(priority)
    scan = next(iter(results.values())).scan
    base = out / scan.name
    write_like(labels, like=scan, path=base / f"{scan.name}_combined{default_suffix(scan)}")
    names = {name: number for number, name in enumerate(priority, start=1)}
    write_bytes(base / "labels.json", (json.dumps(names, indent=2) + "\n").encode())
    typer.echo(f"combined: {overlap} voxels were claimed by more than one target")


def read_modality(text: str | None) -> Modality | None:
    """`CT` or `MR`, in any case.

    Raises:
        UsageError: Anything else.
    """
    if text is None:
        return None
    if text.upper() not in ("CT", "MR"):
        raise UsageError(f"unknown modality {text!r}", where="--modality", fix="give CT or MR")
    return "CT" if text.upper() == "CT" else "MR"


def read_mode(text: str) -> SupportMode:
    """`nearest` or `joint`.

    Raises:
        UsageError: Anything else.
    """
    if text not in ("nearest", "joint"):
        raise UsageError(
            f"unknown support mode {text!r}", where="--support-mode", fix="give nearest or joint"
        )
    return "nearest" if text == "nearest" else "joint"


def show_progress(done: int, total: int, stage: str) -> None:
    """One line per stage on standard error."""
    typer.echo(f"[{done}/{total}] {stage}", err=True)

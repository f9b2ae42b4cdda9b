"""`latentseg segment`: one scan, any number of targets, named by a prompt or shown in examples."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentseg.cli.output import show_table
from latentseg.cli.progress import Progress
from latentseg.errors import UsageError
from latentseg.imaging.files import case_name

if TYPE_CHECKING:
    from latentseg.backbones.device import Precision
    from latentseg.imaging.intensity import Modality
    from latentseg.methods.fewshot.context import SupportContext, SupportMode
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.results import Segmentations
    from latentseg.methods.sdfsmis.compat import Compat
    from latentseg.methods.tumor.options import TumorOptions

EVIDENCE = ("evidence", "attention", "healthy", "residual", "uncertainty")

app = typer.Typer()

Image = Annotated[
    Path, typer.Argument(help="The scan: NIfTI, NRRD, MHA, PNG, TIFF, a folder of slices, or DICOM.")
]
Supports = Annotated[
    list[Path] | None,
    typer.Option(
        "--support", "-s", help="A folder of examples, one IMAGE,MASK pair, or a .safetensors context."
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", help='What to look for, such as "liver tumor"; may be repeated.'),
]
Preset = Annotated[
    str, typer.Option(help="Of prompts: recommended, paper_like or, with a trained projector, paper.")
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="What to segment; default: all the support names."),
]
Save = Annotated[
    str | None,
    typer.Option(
        help="What to write, of mask,prob,preview,radiomics; all targets in one label map: multilabel (with "
        "labels.json), dseg (BIDS); with prompts evidence,attention,healthy,residual,uncertainty; of DICOM "
        "dicom-labelmap,dicom-prob,dicom-sr."
    ),
]
Label = Annotated[
    int | None, typer.Option(help="Label id of the target, where masks hold several without names.")
]
Combined = Annotated[
    str | None,
    typer.Option(help="Also write one label map; targets in order of priority, comma-separated."),
]
ModalityOption = Annotated[
    str | None, typer.Option("--modality", help="CT or MR, where the files do not tell.")
]
Orientation = Annotated[
    str | None,
    typer.Option(
        help="Axis codes such as LAS that overrule wrong affines of scan and support; auto reads them from"
        " each picture."
    ),
]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="DICOM: UID or number of the series, where there are several.")
]
VolumeOption = Annotated[
    int | None,
    typer.Option(
        "--volume", help="DICOM: which volume of a series, from 1: echoes, phases, b-values.", min=1
    ),
]
AllowGaps = Annotated[
    bool, typer.Option("--allow-gaps", help="DICOM: resample uneven or missing slices; marks the outputs.")
]
ResampleTilt = Annotated[
    bool, typer.Option("--resample-tilt", help="DICOM: resample a gantry tilt; marks the outputs.")
]
Mode = Annotated[str, typer.Option(help="nearest or joint: how several support slices are used.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (cuda, mps, cpu: the first that is there), or one of them.")
]
CompatOption = Annotated[
    str,
    typer.Option("--compat", help="fixed, or official: SD-FSMIS as released and nothing beside it."),
]
Anywhere = Annotated[
    bool,
    typer.Option("--anywhere", help="Search every slice: for lesions, and what lies elsewhere in each body."),
]
BackboneOption = Annotated[str, typer.Option(help="A model of `latentseg models list`, or its folder.")]
Weights = Annotated[
    Path | None, typer.Option(help="Few-shot weights other than the backbone's own, or where it brings none.")
]


@app.command()
def segment(
    image: Image,
    support: Supports = None,
    prompt: Prompts = None,
    target: Targets = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("out"),
    save: Save = None,
    label: Label = None,
    combined: Combined = None,
    modality: ModalityOption = None,
    orientation: Orientation = None,
    series: SeriesOption = None,
    volume: VolumeOption = None,
    allow_gaps: AllowGaps = False,
    resample_tilt: ResampleTilt = False,
    support_mode: Mode = "nearest",
    anywhere: Anywhere = False,
    preset: Preset = "recommended",
    backbone: BackboneOption = "compact",
    weights: Weights = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compat: CompatOption = "fixed",
) -> None:
    """Segment a scan by examples or by prompts; masks are written on exactly the scan's grid."""
    import latentseg as ls
    from latentseg.imaging.dicom.series import DicomOptions
    from latentseg.imaging.orientation import warn_of_orientation
    from latentseg.methods.results import ONE_FILE, check_priority, check_writable

    if bool(support) == bool(prompt):
        what = "examples and prompts in one call" if support else "neither examples nor a prompt"
        raise UsageError(what, fix="give --support or --prompt")
    kind, mode = read_modality(modality), read_mode(support_mode)
    outputs = read_outputs(save, prompts=bool(prompt))
    check_writable(out)
    load: Any = partial(
        ls.load, backbone=backbone, weights=weights, device=device, dtype=cast("Precision", precision)
    )
    targets: list[Any]
    if prompt:
        targets, names = prompt, prompt
        load = partial(load, "tumor", options=read_preset(preset))
    else:
        targets = read_targets(support or [], target, label=label, modality=kind, orientation=orientation)
        names = [shown.name for shown in targets]
        load = partial(load, "fewshot", options=search_options(mode, anywhere=anywhere, compat=compat))
    outputs, priority = read_combined(outputs, combined, names=names)
    if priority is not None:
        check_priority(priority, names)
    dicom = DicomOptions(series, allow_gaps=allow_gaps, resample_tilt=resample_tilt, volume=volume)
    with Progress("segment") as progress:
        progress.stage("reading the scan")
        scan = ls.read(image, modality=kind, orientation=orientation, dicom=dicom)
        if orientation is None:
            warn_of_orientation(scan)
        progress.stage("loading the model")
        segmenter = load()
        if takes := segmenter.needs(scan):
            progress.say(takes)
        results = segmenter(scan, targets, on_progress=progress)
        progress.stage("writing")
        results.save(out, what=[one for one in outputs if one not in ONE_FILE])
        overlap = None if priority is None else results.save_combined(out, priority, what=outputs)
    if overlap is not None:
        typer.echo(f"combined: {overlap} voxels were claimed by more than one target")
    show_results(results)
    typer.echo(f"written to {out / scan.name}")


def show_results(results: Segmentations) -> None:
    """One line per target."""
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


def read_targets(
    supports: list[Path],
    names: list[str] | None,
    *,
    label: int | None = None,
    modality: Modality | None = None,
    orientation: str | None = None,
) -> list[Support | SupportContext]:
    """The targets of the `--support` and `--target` options; supports of one name are joined.

    Raises:
        UsageError: A target that no support knows, or one shown twice of which one is encoded.
        InputError: A support that cannot be used.
    """
    from latentseg.methods.fewshot.support import Support

    found: dict[str, list[Support | SupportContext]] = {}
    known: list[str] = []
    for path in supports:
        for name, read in offers(path, names, label=label, modality=modality, orientation=orientation):
            known.append(name)
            if not names or name in names:
                found.setdefault(name, []).append(read())
    for name in names or []:
        if name not in found:
            raise unknown_target(name, known)
    joined: list[Support | SupportContext] = []
    for name in dict.fromkeys(names or found):
        shown = [one for one in found[name] if isinstance(one, Support)]
        if len(found[name]) > 1 and len(shown) < len(found[name]):
            what = f"{name!r} is shown more than once, and an encoded support cannot be joined"
            raise UsageError(what, where="--support", fix="encode all examples together")
        joined.append(Support.join(shown) if shown else found[name][0])
    return joined


def offers(
    path: Path, names: list[str] | None, *, label: int | None = None, **options: Any
) -> list[tuple[str, Callable[[], Support | SupportContext]]]:
    """Names of the targets that one `--support` shows, each with how to read it.

    Raises:
        UsageError: An image without its mask.
        InputError: No such folder.
        ModelError: A damaged context.
    """
    from latentseg.imaging.formats import structure_names
    from latentseg.methods.fewshot.context import SupportContext
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.fewshot.support_folder import SupportFolder

    only = names[0] if names and len(names) == 1 else ""
    if path.suffix == ".safetensors":
        context = SupportContext.load(path)
        return [(context.name, lambda: context)]
    if "," in str(path) and not path.exists():
        pair = split_pair(str(path))
        held = [] if label is not None else structure_names(Path(pair[1]))
        shown = [only] if only else held or [case_name(Path(pair[1]))]
        read_pair = partial(Support.from_files, pair, label=label, **options)
        return [(name, partial(read_pair, name=name)) for name in shown]
    if path.is_file():
        raise UsageError("a support image needs its mask", where=str(path), fix="give IMAGE,MASK")
    listed = list(SupportFolder(path).names) or [only or path.resolve().name]

    @cache
    def read() -> dict[str, Support]:
        chosen = [name for name in listed if not names or name in names]
        supports = Support.several_from_folder(path, targets=chosen, label=label, **options)
        return dict(zip(chosen, supports, strict=True))

    return [(name, partial(lambda name: read()[name], name)) for name in listed]


def unknown_target(name: str, known: list[str]) -> UsageError:
    """The error for a target that no support shows."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    fix = f"{hint}choose from {', '.join(dict.fromkeys(known))}"
    return UsageError(f"no support shows {name!r}", where="--target", fix=fix)


def split_pair(text: str) -> tuple[str, str]:
    """`IMAGE,MASK` at the comma that leaves two files, should there be several commas."""
    cuts = [(text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == ","]
    return next((cut for cut in cuts if Path(cut[0]).exists() and Path(cut[1]).exists()), cuts[0])


def split_names(text: str | None) -> list[str] | None:
    """The parts of a comma-separated option; `None` where it was not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


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


def read_preset(text: str) -> TumorOptions:
    """Options of prompts by name.

    Raises:
        UsageError: There is no such preset.
    """
    from latentseg.methods.tumor.options import PRESETS

    if text not in PRESETS:
        raise UsageError(f"unknown preset {text!r}", where="--preset", fix=f"give {' or '.join(PRESETS)}")
    return PRESETS[text]


def read_outputs(text: str | None, *, prompts: bool) -> tuple[str, ...]:
    """What is written; prompts also have evidence.

    Raises:
        UsageError: Something that is not known, or not made from examples.
    """
    from latentseg.methods.results import SAVED, check_outputs

    known = (*SAVED, *EVIDENCE) if prompts else SAVED
    asked = split_names(text)
    if asked is None:
        return (*SAVED, "evidence") if prompts else SAVED
    return check_outputs(asked, known=known)


def read_combined(
    outputs: tuple[str, ...], combined: str | None, *, names: Sequence[str]
) -> tuple[tuple[str, ...], list[str] | None]:
    """Outputs with `--combined` among them, and the order of targets in one label map; None without one."""
    from latentseg.methods.results import ONE_FILE

    order = split_names(combined)
    if order is not None:
        return tuple(dict.fromkeys([*outputs, "multilabel"])), order
    return outputs, list(names) if set(ONE_FILE) & set(outputs) else None


def search_options(mode: SupportMode, *, anywhere: bool = False, compat: str = "fixed") -> SegmentOptions:
    """Options of the few-shot segmenter.

    Raises:
        UsageError: An unknown ``compat``.
    """
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.volume_matching import VolumeOptions

    if compat not in ("fixed", "official"):
        raise UsageError(f"unknown rules {compat!r}", where="--compat", fix="give fixed or official")
    rules: Compat = "official" if compat == "official" else "fixed"
    return SegmentOptions(compat=rules, support_mode=mode, volume=None if anywhere else VolumeOptions())


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

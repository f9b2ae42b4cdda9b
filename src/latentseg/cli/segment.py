"""`latentseg segment`: one scan, any number of targets, named by a prompt or shown in examples."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentseg.cli import shared
from latentseg.cli.output import show_table
from latentseg.cli.progress import Progress
from latentseg.errors import UsageError
from latentseg.imaging.files import case_name

if TYPE_CHECKING:
    from latentseg.imaging.intensity import Modality
    from latentseg.methods.fewshot.context import SupportContext, SupportMode
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.results import Segmentations
    from latentseg.methods.sdfsmis.compat import Compat
    from latentseg.methods.tumor.options import TumorOptions
    from latentseg.methods.tumor.segmenter import TumorSegmenter

EVIDENCE = ("evidence", "attention", "healthy", "residual", "uncertainty")

app = typer.Typer()


@app.command()
def segment(
    image: shared.Image,
    support: shared.Supports = None,
    prompt: shared.Prompts = None,
    target: shared.Targets = None,
    out: shared.Out = Path("out"),
    save: shared.Save = None,
    label: shared.Label = None,
    combined: shared.Combined = None,
    modality: shared.ModalityOption = None,
    orientation: shared.Orientation = None,
    series: shared.SeriesOption = None,
    volume: shared.VolumeOption = None,
    allow_gaps: shared.AllowGaps = False,
    resample_tilt: shared.ResampleTilt = False,
    support_mode: shared.Mode = "nearest",
    anywhere: shared.Anywhere = False,
    anyway: shared.Anyway = False,
    preset: shared.Preset = "recommended",
    backbone: shared.BackboneOption = "compact",
    weights: shared.Weights = None,
    device: shared.DeviceOption = "auto",
    precision: shared.PrecisionOption = "auto",
    compat: shared.CompatOption = "fixed",
) -> None:
    """Segment a scan by examples or by prompts; masks are written on exactly the scan's grid."""
    import latentseg as ls
    from latentseg.imaging.dicom.series import DicomOptions
    from latentseg.imaging.orientation import warn_of_orientation
    from latentseg.methods.results import ONE_FILE

    outputs = read_outputs(support, prompt, save, out=out)
    load: Any = partial(ls.load, backbone=backbone, weights=weights, device=device, dtype=precision)
    targets: list[Any] = prompt or []
    if prompt:
        names = prompt
        load = partial(load, "tumor", options=preset_options(preset))
    else:
        targets = read_targets(support or [], target, label=label, modality=modality, orientation=orientation)
        names = [shown.name for shown in targets]
        wanted = search_options(support_mode, anywhere=anywhere, compat=compat)
        load = partial(load, "fewshot", options=wanted)
    outputs, priority = read_combined(outputs, combined, names=names)
    dicom = DicomOptions(series, allow_gaps=allow_gaps, resample_tilt=resample_tilt, volume=volume)
    with Progress("segment") as progress:
        progress.stage("reading the scan")
        scan = ls.read(image, modality=modality, orientation=orientation, dicom=dicom)
        if orientation is None:
            warn_of_orientation(scan)
        progress.stage("loading the model")
        segmenter = load()
        said = known_lines(segmenter, prompt, anyway=anyway) if prompt else []
        if takes := segmenter.needs(scan):
            progress.say(takes)
        results = segmenter(scan, targets, on_progress=progress)
        progress.stage("writing")
        results.save(out, what=[one for one in outputs if one not in ONE_FILE])
        overlap = None if priority is None else results.save_combined(out, priority, what=outputs)
    show_results(results, overlap)
    for line in said:
        typer.echo(line)
    typer.echo(f"written to {out / scan.name}")


def known_lines(segmenter: TumorSegmenter, prompts: Sequence[str], *, anyway: bool) -> list[str]:
    """What is known of every prompt, a line each.

    Raises:
        UsageError: A prompt that cannot be read, or whose organ the model does not see, unless ``anyway``.
    """
    from latentseg.methods.tumor.known import check_seen, known_of
    from latentseg.text import read_prompt

    networks, read = segmenter.networks, [read_prompt(text) for text in prompts]
    for prompt in () if anyway else read:
        check_seen(prompt, networks.known, organs=networks.network.organs.trusted)
    return [known_of(prompt, networks.known) for prompt in read]


def show_results(results: Segmentations, overlap: int | None) -> None:
    """One line per target, and how many voxels several of them claim in one label map."""
    if overlap is not None:
        typer.echo(f"combined: {overlap} voxels were claimed by more than one target")
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


def read_choices(text: str, known: Sequence[str], *, option: str) -> list[str]:
    """The chosen ones of a comma-separated option, in the order of the known ones.

    Raises:
        UsageError: None, or one that does not exist.
    """
    names = split_names(text) or []
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"unknown {option} {', '.join(map(repr, unknown))}" if unknown else f"no {option}"
        raise UsageError(what, where=f"--{option}", fix=f"choose from {', '.join(known)}")
    return [name for name in known if name in names]


def read_outputs(
    support: list[Path] | None, prompt: list[str] | None, save: str | None, *, out: Path
) -> tuple[str, ...]:
    """What is written; prompts also have evidence.

    Raises:
        UsageError: Examples and prompts, or neither; something that is not known, or not made from examples.
        InputError: A folder that cannot be written.
    """
    from latentseg.methods.results import SAVED, check_outputs, check_writable

    if bool(support) == bool(prompt):
        what = "examples and prompts in one call" if support else "neither examples nor a prompt"
        raise UsageError(what, fix="give --support or --prompt")
    check_writable(out)
    asked = split_names(save)
    if asked is None:
        return (*SAVED, "evidence") if prompt else SAVED
    return check_outputs(asked, known=(*SAVED, *EVIDENCE) if prompt else SAVED)


def read_combined(
    outputs: tuple[str, ...], combined: str | None, *, names: Sequence[str]
) -> tuple[tuple[str, ...], list[str] | None]:
    """Outputs with `--combined` among them, and the order of targets in one label map; None without one.

    Raises:
        UsageError: The order does not name each target once.
    """
    from latentseg.methods.results import ONE_FILE, check_priority

    order = split_names(combined)
    if order is None:
        return outputs, list(names) if set(ONE_FILE) & set(outputs) else None
    check_priority(order, names)
    return tuple(dict.fromkeys([*outputs, "multilabel"])), order


def preset_options(preset: str) -> TumorOptions:
    """Options of prompts by the name of a preset."""
    from latentseg.methods.tumor.options import PRESETS

    return PRESETS[preset]


def search_options(mode: SupportMode, *, anywhere: bool = False, compat: Compat = "fixed") -> SegmentOptions:
    """Options of the few-shot segmenter."""
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.volume_matching import VolumeOptions

    return SegmentOptions(compat=compat, support_mode=mode, volume=None if anywhere else VolumeOptions())

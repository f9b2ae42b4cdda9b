"""Arguments and options that several verbs have, each declared once, and how lists in them are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from latentseg.errors import UsageError

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
    Literal["recommended", "paper_like", "paper"],
    typer.Option("--preset", help="Of prompts; paper needs a trained projector."),
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", "-t", help="What to segment; default: all the support names.")
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
    str | None, typer.Option(help="Also write one label map; targets in order of priority, comma-separated.")
]
ModalityOption = Annotated[
    Literal["CT", "MR"] | None,
    typer.Option("--modality", case_sensitive=False, help="What the scan is, where the files do not tell."),
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
Mode = Annotated[
    Literal["nearest", "joint"], typer.Option("--support-mode", help="How several support slices are used.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (cuda, mps, cpu: the first that is there), or one of them.")
]
CompatOption = Annotated[
    Literal["fixed", "official"],
    typer.Option("--compat", help="official: SD-FSMIS as released and nothing beside it."),
]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16"], typer.Option("--precision", help="Of numbers.")]
Anywhere = Annotated[
    bool,
    typer.Option("--anywhere", help="Search every slice: for lesions, and what lies elsewhere in each body."),
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Look for a prompt even where no training showed it.")]
BackboneOption = Annotated[str, typer.Option(help="A model of `latentseg models list`, or its folder.")]
Weights = Annotated[
    Path | None, typer.Option(help="Few-shot weights other than the backbone's own, or where it brings none.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output folder.")]
EvaluationOut = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of table.md, cases.csv, results.json; a run goes on.")
]
ReproductionOut = Annotated[Path, typer.Option("--out", "-o", help="Folder of the reproduction.")]
LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", help="Of label maps: names, such as 1=liver,2=tumor, or a dataset.json."),
]
Tolerance = Annotated[float, typer.Option("--tolerance-mm", min=0, help="Surface error that NSD forgives.")]
Queries = Annotated[
    int | None, typer.Option("--queries", help="Only the first query scans of each fold, for a trial.", min=1)
]
SettingOption = Annotated[
    Literal["1", "2", "2-corrected", "cross-domain"],
    typer.Option("--setting", help="What the training saw: 2 is as published, 2-corrected as it was meant."),
]


def with_options(
    group: type, *, without: Sequence[str] = (), after: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as its options; the command takes them as one `request`.

    Args:
        group: The dataclass; its fields are annotated as typer wants them.
        without: Fields that the command does not offer, which keep their defaults.
        after: The field after which the command's own options stand in ``--help``; at the end by default.
    """
    hints = get_type_hints(group, include_extras=True)
    names = [one.name for one in fields(group) if one.name not in without]
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=getattr(group, name), annotation=hints[name])
        for name in names
    ]
    place = names.index(after) + 1 if after else len(names)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one.replace(kind=Parameter.KEYWORD_ONLY)
            for one in signature(command, eval_str=True).parameters.values()
            if one.name != "request"
        ]
        arguments = [one for one in own if one.default is Parameter.empty]
        ordered = [*arguments, *shared[:place], *own[len(arguments) :], *shared[place:]]

        @wraps(command)
        def call(**given: Any) -> None:
            request = group(**{name: given.pop(name) for name in names})
            command(request=request, **given)

        call.__signature__ = Signature(ordered)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in ordered}
        return call

    return decorate


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

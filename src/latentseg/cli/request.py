"""What `latentseg segment` and `latentseg batch` are asked for: the options of both, and what they mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentseg.cli import shared
from latentseg.cli.shared import split_names
from latentseg.errors import UsageError
from latentseg.imaging.files import case_name

if TYPE_CHECKING:
    from latentseg.imaging.intensity import Modality
    from latentseg.methods.fewshot.context import SupportContext, SupportMode
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.sdfsmis.compat import Compat
    from latentseg.methods.tumor.options import TumorOptions
    from latentseg.methods.tumor.segmenter import TumorSegmenter

EVIDENCE = ("evidence", "attention", "healthy", "residual", "uncertainty")


@dataclass(frozen=True)
class Request:
    """The options that `segment` and `batch` share, in the order in which ``--help`` lists them."""

    support: shared.Supports = None
    prompt: shared.Prompts = None
    target: shared.Targets = None
    out: shared.Out = Path("out")
    save: shared.Save = None
    label: shared.Label = None
    combined: shared.Combined = None
    modality: shared.ModalityOption = None
    orientation: shared.Orientation = None
    series: shared.SeriesOption = None
    volume: shared.VolumeOption = None
    allow_gaps: shared.AllowGaps = False
    resample_tilt: shared.ResampleTilt = False
    support_mode: shared.Mode = "nearest"
    anywhere: shared.Anywhere = False
    anyway: shared.Anyway = False
    preset: shared.Preset = "recommended"
    seed: Annotated[int, typer.Option(help="Of all draws, with prompts.")] = 0
    backbone: shared.BackboneOption = "compact"
    weights: shared.Weights = None
    device: shared.DeviceOption = "auto"
    precision: shared.PrecisionOption = "auto"
    compat: shared.CompatOption = "fixed"

    @property
    def reading(self) -> dict[str, Any]:
        """How scans are read: options of :func:`latentseg.read`."""
        from latentseg.imaging.dicom.series import DicomOptions

        dicom = DicomOptions(
            self.series, allow_gaps=self.allow_gaps, resample_tilt=self.resample_tilt, volume=self.volume
        )
        return {"modality": self.modality, "orientation": self.orientation, "dicom": dicom}

    @property
    def loader(self) -> Callable[[], Any]:
        """A call that loads the segmenter of prompts or of examples; it can be sent to other processes."""
        import latentseg as ls

        load: Any = partial(
            ls.load,
            backbone=self.backbone,
            weights=self.weights,
            device=self.device,
            dtype=self.precision,
        )
        if self.prompt:
            asked = replace(with_seed(preset_options(self.preset), self.seed), anyway=self.anyway)
            return partial(load, "tumor", options=asked)
        options = search_options(self.support_mode, anywhere=self.anywhere, compat=self.compat)
        return partial(load, "fewshot", options=options)

    def targets(self) -> list[Any]:
        """Prompts, or what the examples show.

        Raises:
            UsageError: A target that no support knows, or one shown twice of which one is encoded.
            InputError: A support that cannot be used.
        """
        how: Any = {"label": self.label, "modality": self.modality, "orientation": self.orientation}
        return self.prompt or read_targets(self.support or [], self.target, **how)

    def outputs(self) -> tuple[str, ...]:
        """What is written, without ``--combined``; prompts also have evidence.

        Raises:
            UsageError: Examples and prompts, or neither; an output that nobody knows or that examples lack.
            InputError: A folder that cannot be written.
        """
        from latentseg.methods.results import SAVED, check_outputs, check_writable

        if bool(self.support) == bool(self.prompt):
            what = "examples and prompts in one call" if self.support else "neither examples nor a prompt"
            raise UsageError(what, fix="give --support or --prompt")
        check_writable(self.out)
        asked = split_names(self.save)
        if asked is None:
            return (*SAVED, "evidence") if self.prompt else SAVED
        return check_outputs(asked, known=(*SAVED, *EVIDENCE) if self.prompt else SAVED)

    def with_combined(
        self, outputs: tuple[str, ...], targets: Sequence[Any]
    ) -> tuple[tuple[str, ...], list[str] | None]:
        """Outputs with ``--combined`` among them, and the order of targets in one label map, if there is one.

        Raises:
            UsageError: The order does not name each target once.
        """
        from latentseg.methods.results import ONE_FILE, check_priority

        names = self.prompt or [target.name for target in targets]
        order = split_names(self.combined)
        if order is None:
            return outputs, names if set(ONE_FILE) & set(outputs) else None
        check_priority(order, names)
        return tuple(dict.fromkeys([*outputs, "multilabel"])), order

    def known_lines(self, segmenter: TumorSegmenter) -> list[str]:
        """What is known of every prompt, a line each; nothing of examples.

        Raises:
            UsageError: A prompt that cannot be read, or whose organ the model does not see, unless `anyway`.
        """
        from latentseg.methods.tumor.known import check_seen, known_of
        from latentseg.text import read_prompt

        if not self.prompt:
            return []
        networks, read = segmenter.networks, [read_prompt(text) for text in self.prompt]
        for prompt in () if self.anyway else read:
            check_seen(prompt, networks.known, organs=networks.network.organs.trusted)
        return [known_of(prompt, networks.known) for prompt in read]


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


def preset_options(preset: str) -> TumorOptions:
    """Options of prompts by the name of a preset."""
    from latentseg.methods.tumor.options import PRESETS

    return PRESETS[preset]


def with_seed(options: TumorOptions, seed: int) -> TumorOptions:
    """Options of prompts that draw by a seed."""
    if options.refinement is None:
        return options
    inpainting = replace(options.refinement.inpainting, seed=seed)
    return replace(options, refinement=replace(options.refinement, inpainting=inpainting))


def search_options(mode: SupportMode, *, anywhere: bool = False, compat: Compat = "fixed") -> SegmentOptions:
    """Options of the few-shot segmenter."""
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.volume_matching import VolumeOptions

    return SegmentOptions(compat=compat, support_mode=mode, volume=None if anywhere else VolumeOptions())

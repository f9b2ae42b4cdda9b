"""`latentseg reproduce sdfsmis`: the steps of SD-FSMIS, each resumable and separately callable.

The folder of a reproduction::

    recipe.json           what it was begun with; another recipe is refused
    pack-SABS/            all scans of the data set that is trained on, and their supervoxels
    fold0/                one model: split.json, checkpoint.pt, log.jsonl, loss.png,
                          released/ (or fewshot.safetensors on compact), evaluation/
    page.html, table.md   what came out
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from latentseg.cli import shared
from latentseg.cli.few_shot import load, make_methods, read_folds, run_facts, show_rows
from latentseg.cli.shared import read_choices
from latentseg.cli.steps import check_recipe
from latentseg.errors import UsageError, caution

if TYPE_CHECKING:
    from latentseg.evaluation.datasets.base import Dataset
    from latentseg.evaluation.protocols import EP1, Outcome
    from latentseg.evaluation.rows import Row
    from latentseg.evaluation.settings import Setting
    from latentseg.methods.fewshot.context import SupportMode
    from latentseg.training.fewshot.paper import PaperOptions, PaperTask
    from latentseg.training.fewshot.scan_pack import LabelledScan

BASELINES = ("copy", "prototype")
STEPS = ("prepare", "supervoxels", "train", "export", "evaluate", "page")
EVERY = ",".join(STEPS)


class Unit(NamedTuple):
    """One model: its test fold and, where a setting has one model for each, the group that is tested."""

    fold: int
    group: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"fold{self.fold}" + (f"-{self.group}" if self.group else "")


@dataclass(frozen=True)
class Plan:
    """What is to be reproduced.

    Attributes:
        backbone: Name or folder of the backbone.
        options: Of the training.
        dataset: Of the evaluation.
        trained_on: Data set of the training, another one across domains.
        setting: See :mod:`latentseg.evaluation.settings`.
        units: The models.
        out: Folder of the reproduction.
        dinov2: Folder of DINOv2; None takes the registered one.
        original: Folder of the download, where the data have to be made of it.
        queries: Query scans of each fold; None is all.
        device: To evaluate on.
    """

    backbone: str
    options: PaperOptions
    dataset: Dataset
    trained_on: Dataset
    setting: Setting
    units: tuple[Unit, ...]
    out: Path
    dinov2: Path | None = None
    original: Path | None = None
    queries: int | None = None
    device: str = "auto"

    @property
    def pack(self) -> Path:
        """Folder of the packed scans."""
        return self.out / f"pack-{self.trained_on.name}"

    def folder(self, unit: Unit) -> Path:
        """Folder of a model."""
        return self.out / unit.name


def sdfsmis(
    config: Annotated[
        Path, typer.Argument(help="configs/sdfsmis-released.yaml, sdfsmis-paper.yaml, or yours.")
    ],
    backbone: Annotated[str, typer.Option(help="Folder of Stable Diffusion 1.5, or `compact`.")],
    out: shared.ReproductionOut,
    dinov2: Annotated[Path | None, typer.Option(help="Folder of DINOv2; default: the pulled one.")] = None,
    dataset: Annotated[
        str, typer.Option(help="SABS, CHAOS, MS-CMRSeg, or a folder like nnU-Net's.")
    ] = "SABS",
    train_dataset: Annotated[
        str | None, typer.Option(help="What to train on in the setting cross-domain.")
    ] = None,
    original: Annotated[
        Path | None, typer.Option(help="The download, where the data set has to be made of it.")
    ] = None,
    folds: Annotated[str, typer.Option(help="Test folds, comma-separated, or 'all'.")] = "all",
    setting: shared.SettingOption = "1",
    steps: Annotated[str, typer.Option(help=f"Of {EVERY}; what is done is kept.")] = EVERY,
    train_steps: Annotated[int | None, typer.Option(help="Shorten the training, for a trial.", min=1)] = None,
    queries: shared.Queries = None,
    device: shared.DeviceOption = "auto",
) -> None:
    """SD-FSMIS: prepare, supervoxels, train, export, evaluate, page. A call that was stopped goes on."""
    from latentseg.evaluation.datasets import get_dataset
    from latentseg.methods.results import check_writable
    from latentseg.training.config import read_config
    from latentseg.training.fewshot.paper import PaperOptions

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = read_choices(steps, STEPS, option="steps")
    check_writable(out)
    options = read_config(config, PaperOptions)
    if train_steps:
        options = options.model_copy(update={"loop": options.loop.model_copy(update={"steps": train_steps})})
    queried = get_dataset(dataset)
    queried = queried.across_domains() if setting == "cross-domain" else queried
    plan = Plan(
        backbone=backbone,
        options=options,
        dataset=queried,
        trained_on=training_set(queried, train_dataset, setting),
        setting=setting,
        units=units_of(setting, read_folds(folds, count=len(queried.folds))),
        out=out,
        dinov2=dinov2,
        original=original,
        queries=queries,
        device=device,
    )
    check_models(plan, chosen)
    check_recipe(plan.out, recipe_of(plan))
    for step in chosen:
        typer.echo(f"step {step}", err=True)
        RUN[step](plan)


def check_models(plan: Plan, steps: Sequence[str]) -> None:
    """Read what is trained on before the hours of work that come first, and before the folder is begun.

    Raises:
        ModelError: The backbone or DINOv2 cannot be used.
    """
    from latentseg.backbones.registry import resolve
    from latentseg.training.fewshot.frozen import load_frozen

    missing = [unit for unit in plan.units if not is_exported(plan, unit)]
    if missing and {"prepare", "train", "export"} & set(steps):
        load_frozen(resolve(plan.backbone), dinov2=plan.dinov2)


def training_set(queried: Dataset, name: str | None, setting: Setting) -> Dataset:
    """What is trained on: the data set itself, or across domains the other one.

    Raises:
        UsageError: It is missing or out of place.
    """
    from latentseg.evaluation.datasets import get_dataset

    if (setting == "cross-domain") != bool(name):
        what = "the setting cross-domain and --train-dataset go together"
        raise UsageError(what, fix="give both, such as --dataset CHAOS --train-dataset SABS, or neither")
    if not name:
        return queried
    other = get_dataset(name)
    if other.name == queried.name:
        fix = "train on the other modality"
        raise UsageError("trained and tested on one data set", where="--train-dataset", fix=fix)
    return other


def units_of(setting: Setting, folds: list[int]) -> tuple[Unit, ...]:
    """The models of a setting: one for each fold, or one for each fold and group of organs."""
    from latentseg.evaluation.settings import GROUPS

    groups = tuple(GROUPS) if setting == "2-corrected" else ("",)
    return tuple(Unit(fold, group) for fold in folds for group in groups)


def recipe_of(plan: Plan) -> dict[str, object]:
    """What a reproduction is begun with."""
    return {
        "backbone": plan.backbone,
        "dataset": plan.dataset.name,
        "trained_on": plan.trained_on.name,
        "setting": plan.setting,
        "training": plan.options.model_dump(mode="json"),
    }


def prepare(plan: Plan) -> None:
    """Prepare the download as the literature does, where that is asked for, and pack all scans."""
    from latentseg.evaluation.datasets.originals import prepare_originals
    from latentseg.training.fewshot.scan_pack import pack_scans

    if plan.original:
        for case in prepare_originals(plan.dataset, original=plan.original, folder=plan.dataset.path):
            typer.echo(f"{plan.dataset.name} {case}", err=True)
    for unit in plan.units:
        protocol_of(plan, unit).check()  # what is missing is said before the work
    scans, whole = labelled_scans(plan.trained_on), plan.options.intensities == "range"
    pack_scans(scans, source=plan.trained_on.name, folder=plan.pack, whole_range=whole)


def labelled_scans(dataset: Dataset) -> Iterator[LabelledScan]:
    """The scans that are on this machine."""
    from latentseg.training.fewshot.scan_pack import LabelledScan

    names = {label: organ for organ, label in dataset.label_of.items()}
    for case in dataset.present():
        loaded = dataset.load(case)
        yield LabelledScan(case, loaded.image, loaded.labels, names)


def supervoxels(plan: Plan) -> None:
    """Compute the pseudo-labels, where the recipe is supervised by them."""
    from latentseg.training.fewshot.scan_pack import pack_supervoxels, smallest_of
    from latentseg.training.pack import Pack

    if plan.options.supervision != "supervoxels":
        typer.echo("not needed: this recipe is supervised by labels", err=True)
        return
    for case in pack_supervoxels(Pack(plan.pack), smallest=smallest_of(plan.trained_on.name)):
        typer.echo(f"{plan.trained_on.name} {case}", err=True)


def train(plan: Plan) -> None:
    """Train the models that have not been exported yet, each on from its checkpoint."""
    from latentseg.training.loop import Loop

    for unit in plan.units:
        if not is_exported(plan, unit):
            Loop(task_of(plan, unit), plan.options.loop, plan.folder(unit)).run(resume=True)


def export(plan: Plan) -> None:
    """Write the weights of every trained model as users load them."""
    from latentseg.training.fewshot.mask_head import distilled
    from latentseg.training.fewshot.paper import load_trained

    for unit in plan.units:
        if not is_exported(plan, unit):
            task = task_of(plan, unit)
            checkpoint = plan.folder(unit) / "checkpoint.pt"
            load_trained(task.model, checkpoint, steps=plan.options.loop.steps)
            if plan.options.mask_head:
                place = plan.folder(unit) / "mask_head"
                task.parts.mask_head = distilled(task.parts, task.pairs, plan.options.mask_head, place)
            task.export(task.model, plan.folder(unit))


def is_exported(plan: Plan, unit: Unit) -> bool:
    """Whether a model is finished."""
    from latentseg.errors import ModelError
    from latentseg.training.fewshot.paper import exported

    try:
        exported(plan.folder(unit))
    except ModelError:
        return False
    return True


def task_of(plan: Plan, unit: Unit) -> PaperTask:
    """The training of one model; which slices it may see is written to ``split.json`` first."""
    from latentseg.backbones.registry import resolve
    from latentseg.training.fewshot.frozen import load_frozen
    from latentseg.training.fewshot.paper import PaperTask
    from latentseg.training.pack import Pack

    parts = load_frozen(resolve(plan.backbone), dinov2=plan.dinov2)
    return PaperTask(plan.options, Pack(plan.pack), usable_slices(plan, unit), parts)


def usable_slices(plan: Plan, unit: Unit) -> Mapping[str, list[int]]:
    """By case, the slices that a model may be trained on.

    Raises:
        InputError: A scan cannot be read.
    """
    from latentseg.evaluation.settings import training_split
    from latentseg.imaging.files import write_json
    from latentseg.training.pack import Pack

    if plan.setting == "cross-domain":
        return {scan.case: list(range(scan.count)) for scan in Pack(plan.pack).scans}
    path = plan.folder(unit) / "split.json"
    if path.exists():
        known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))["slices"]
        return known
    split = training_split(plan.dataset, fold=unit.fold, setting=plan.setting, group=unit.group)
    if split.missing:
        names = ", ".join(split.missing)
        caution(f"{plan.dataset.name}: {len(split.missing)} training scans are missing: {names}")
    write_json(path, asdict(split))
    return split.slices


def evaluate(plan: Plan) -> None:
    """Segment the queries of every model by the released rules, and by baselines without training."""
    from latentseg.evaluation.pictures import save_picture, wrong_slices
    from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
    from latentseg.training.fewshot.paper import exported

    mode: SupportMode = "joint" if plan.options.supports == "all" else "nearest"
    for unit in plan.units:
        weights = exported(plan.folder(unit))
        segmenter = load(plan.backbone, weights, support_mode=mode, device=plan.device, compat="official")
        facts = run_facts(segmenter, mode) | {"model": unit.name}
        folder = RunFolder(plan.folder(unit) / "evaluation", facts=facts)
        methods = make_methods(["fewshot", *BASELINES], segmenter)

        def show(outcome: Outcome, unit: Unit = unit, ours: str = methods[0].name) -> None:
            if outcome.row.method != ours:
                return
            case, organ = outcome.query.case, outcome.row.organ
            png = wrong_slices(case.image, outcome.mask, case.mask(organ), target=organ)
            save_picture(picture_of(plan, unit, outcome.row), png)

        options = RunOptions(plan.queries, say=lambda row: typer.echo(line_of(row), err=True), show=show)
        run_all([protocol_of(plan, unit)], methods=methods, folder=folder, options=options)


def picture_of(plan: Plan, unit: Unit, row: Row) -> Path:
    """Where the picture of a case is."""
    from latentseg.evaluation.pictures import picture_file

    return picture_file(plan.folder(unit) / "evaluation", row.patient, row.organ)


def line_of(row: Row) -> str:
    """A result in one line."""
    return f"{row.patient} {row.organ}, {row.method}: Dice {row.dice:.3f}"


def protocol_of(plan: Plan, unit: Unit) -> EP1:
    """EP1 of a model's fold and organs."""
    from latentseg.evaluation.protocols import EP1
    from latentseg.evaluation.settings import GROUPS

    organs = GROUPS[unit.group] if unit.group else ()
    return EP1(
        plan.dataset,
        fold=unit.fold,
        support_index=min(2, len(plan.dataset.folds[unit.fold]) - 1),
        organs=organs,
        setting=plan.setting,
        whole_range=plan.options.intensities == "range",
        every_chunk=plan.options.supports == "all",
    )


def page(plan: Plan) -> None:
    """Write the table with the published rows, the curves and the worst cases."""
    from latentseg.evaluation.runs import merge_runs
    from latentseg.report.reproduction import fewshot_content, write_reproduction

    folders = [plan.folder(unit) for unit in plan.units]
    rows, about = merge_runs([folder / "evaluation" for folder in folders])
    by_place = {(unit.fold, organ): unit for unit in plan.units for organ in protocol_of(plan, unit).targets}
    pictures = [picture_of(plan, by_place[row.fold, row.organ], row) for row in rows]
    rules = "all three support slices" if plan.options.supports == "all" else "one support slice"
    about = about | {
        "training": f"{plan.options.loop.steps} steps, by {plan.options.supervision}",
        "each chunk is shown": rules,
        "models": f"{len(folders)} of the {len(plan.dataset.folds)} folds' and groups' models",
    }
    show_rows(rows, plan.out, about=about)
    curves = {folder.name: folder / "loss.png" for folder in folders}
    write_reproduction(plan.out / "page.html", fewshot_content(rows, pictures), about=about, curves=curves)


RUN: dict[str, Callable[[Plan], None]] = {
    "prepare": prepare,
    "supervoxels": supervoxels,
    "train": train,
    "export": export,
    "evaluate": evaluate,
    "page": page,
}

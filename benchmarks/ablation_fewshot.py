"""What each part of SD-FSMIS is worth: parts taken away at inference, and starts of the training.

Usage: ``python benchmarks/ablation_fewshot.py [--protocol EP1|EP2] [--dataset SABS|CHAOS] [--folds 0]
[--organs liver,...] [--backbone compact] [--only NAME,...] [--quick] [--output FOLDER]``; data through
``LATENTSEG_DATA``.

With ``--pack FOLDER --runs FOLDER`` the network is also trained from each start of ``TRAININGS`` by the same
configuration and for the same steps; trainings that are done are not repeated, one that was stopped goes on.
The start from the denoiser needs a backbone with a denoiser.

At inference an idea of the paper is taken away by taking away what it says:

* **SQI**: queries attend to no token of the support.
* **VTCT**: the condition token is zero.
* **QE**: prototypes are zero, so that the query's own mean takes the place of its foreground.

Every part of the segmenter (volume matching, finer search, matching prior, network, closer look,
refinement) is taken from its list. Those that compare slices have nothing to add in EP2, where the examples
are whole scans.

The network was trained with all of them; what it would have learned without is another question, which
only trainings answer (``prior: false`` in the configuration is one).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import latentseg as ls
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.registry import resolve
from latentseg.cli.few_shot import read_folds, run_facts, say, scans_seen, show_rows
from latentseg.cli.shared import split_names
from latentseg.evaluation.datasets import get_dataset
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP1, EP2, FewShotProtocol
from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
from latentseg.methods.fewshot.network import Network
from latentseg.methods.fewshot.part import Examples, Part, Tensors
from latentseg.methods.fewshot.parts import SegmentOptions
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.slices_only import SlicesOnly
from latentseg.methods.sdfsmis.method import SDFSMIS
from latentseg.training.config import read_config
from latentseg.training.fewshot.sdfsmis import FewShotOptions, build
from latentseg.training.loop import Loop
from latentseg.training.pack import Pack

TRAININGS: dict[str, dict[str, Any]] = {
    "from the denoiser": {"start": "denoiser"},
    "not from the denoiser": {"start": "matching"},
}
IDEAS = ("SQI", "VTCT", "QE")
BASIC = ("features", "nearest example")  # parts that others stand on


class Muted(Network):
    """The network without one idea of the paper: what it would be told is taken away."""

    def __init__(self, sdfsmis: SDFSMIS, *, missing: str, slab: int) -> None:
        super().__init__(sdfsmis, slab=slab)
        self.missing = missing

    def of_support(self, examples: Examples) -> Tensors:
        """The support without what the missing idea would tell of it."""
        tensors = super().of_support(examples)
        if self.missing == "SQI":
            told = ("cache/keys/", "cache/values/")
            return {name: t[:, :, :0] if name.startswith(told) else t for name, t in tensors.items()}
        if self.missing == "QE":
            return {name: torch.zeros_like(t) if name in ("fg", "bg") else t for name, t in tensors.items()}
        return tensors


def without(segmenter: FewShotSegmenter, idea: str) -> FewShotMethod:
    """The method without one idea of the paper."""
    sdfsmis, options = segmenter.networks.sdfsmis, segmenter.options
    if idea == "VTCT":
        inner = sdfsmis.translator
        sdfsmis = replace(sdfsmis, translator=lambda features: torch.zeros_like(inner(features)))  # type: ignore[arg-type]
    muted = Muted(sdfsmis, missing=idea, slab=options.slab)
    parts = [like(part, muted) if part.name == Network.name else part for part in segmenter.parts]
    ablated = FewShotSegmenter(segmenter.networks, options=options, parts=parts)
    return FewShotMethod(ablated, name=f"without {idea}")


def like(part: Part, other: Part) -> Part:
    """Another part in the place of one: left out for whole scans where that one is."""
    return SlicesOnly(other, edge=part.edge) if isinstance(part, SlicesOnly) else other


def variants(segmenter: FewShotSegmenter) -> Iterator[FewShotMethod]:
    """The full method, the method without each idea of the paper, and without each part of its list."""
    yield FewShotMethod(segmenter, name="full")
    for idea in IDEAS:
        yield without(segmenter, idea)
    for part in segmenter.parts:
        if part.name not in BASIC:
            yield FewShotMethod(segmenter.without(part.name), name=f"without {part.name}")


def trained(name: str, options: argparse.Namespace) -> FewShotMethod:
    """The full method with weights from one start, trained now if they are not there."""
    run, folder = options.runs / name.replace(" ", "-"), resolve(options.backbone)
    if not (run / "fewshot.safetensors").exists() or (run / "checkpoint.pt").exists():
        config = read_config(options.config, FewShotOptions).model_copy(update=TRAININGS[name])
        if options.steps:
            loop = config.loop.model_copy(update={"steps": options.steps})
            config = config.model_copy(update={"loop": loop})
        task = build(config, Pack(options.pack), CompactBackbone.from_folder(folder))
        Loop(task, config.loop, run).run(resume=True)
    segmenter = ls.load(backbone=folder, weights=run / "fewshot.safetensors")
    return FewShotMethod(segmenter, name=f"trained {name}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", choices=["EP1", "EP2"], default="EP1")
    parser.add_argument("--dataset", default="SABS")
    parser.add_argument("--folds", default="0")
    parser.add_argument("--cases", default="", help="these cases as one fold instead, the support third")
    parser.add_argument("--organs", default="", help="comma-separated; default: those of the data set")
    parser.add_argument("--support-slices", type=int, default=3)
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--only", default="", help="variants, comma-separated")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--runs", type=Path, help="where trainings are kept")
    parser.add_argument("--config", type=Path, default=Path("configs/fewshot.yaml"))
    parser.add_argument("--steps", type=int, help="of the trainings, instead of the configuration's")
    parser.add_argument("--quick", action="store_true", help="the first query scan of each fold only")
    parser.add_argument("--restart", action="store_true", help="forget what the folder holds")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ablation_fewshot"))
    return parser.parse_args()


def protocols(options: argparse.Namespace) -> list[FewShotProtocol]:
    """One protocol for each fold that is asked for."""
    dataset, kind = get_dataset(options.dataset), {"EP1": EP1, "EP2": EP2}[options.protocol]
    if options.cases:
        at = tuple(dataset.ids.index(case) for case in options.cases.split(","))
        dataset = replace(dataset, folds=(at,))
    folds = read_folds(options.folds, count=len(dataset.folds))
    organs = tuple(split_names(options.organs) or ())
    return [kind(dataset, fold=fold, support_slices=options.support_slices, organs=organs) for fold in folds]


def main() -> None:
    """Train what is missing, evaluate everything, write the tables."""
    options = arguments()
    runs, only = protocols(options), [name.strip() for name in options.only.split(",") if name.strip()]
    segmenter = ls.load(backbone=options.backbone, options=SegmentOptions())
    methods = list(variants(segmenter))
    if options.pack and options.runs:
        wanted = [name for name in TRAININGS if not only or f"trained {name}" in only]
        methods += [trained(name, options) for name in wanted]
    chosen = [method for method in methods if not only or method.name in only]
    facts = run_facts(segmenter, "nearest")
    folder = RunFolder(options.output, facts=facts, restart=options.restart)
    seen = scans_seen(options.backbone, None, runs)
    run = RunOptions(1 if options.quick else None, seen, say)
    show_rows(run_all(runs, methods=chosen, folder=folder, options=run), options.output, about=facts)


if __name__ == "__main__":
    main()

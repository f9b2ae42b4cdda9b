"""What each part of SD-FSMIS is worth: parts taken away at inference, and starts of the training.

Usage: ``python benchmarks/ablation_fewshot.py [--protocol EP1|EP2] [--dataset SABS|CHAOS] [--folds 0]
[--organs liver,...] [--backbone compact] [--only NAME,...] [--quick] [--output FOLDER]``; data through
``LATENTSEG_DATA``.

With ``--pack FOLDER --runs FOLDER`` the network is also trained from each start of ``TRAININGS`` by the same
configuration and for the same steps; trainings that are done are not repeated, one that was stopped goes on.
The start from the denoiser needs a backbone with a denoiser.

At inference a part is taken away by taking away what it says:

* **SQI**: queries attend to no token of the support.
* **VTCT**: the condition token is zero.
* **QE**: prototypes are zero, so that the query's own mean takes the place of its foreground.
* **matching prior**: it says nothing, to the network and as a vote.
* **closer look**, **refinement**, and in EP2 **the place along the body**: options of the segmenter.

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
from torch import Tensor

import latentseg as ls
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.registry import resolve
from latentseg.cli.evaluate import read_folds, run_facts, say, scans_seen, show_rows, split_words
from latentseg.evaluation.datasets import get_dataset
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP1, EP2, FewShotProtocol
from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.encoded import Encoded
from latentseg.methods.fewshot.segmenter import FewShotSegmenter, SegmentOptions
from latentseg.methods.fewshot.support import Support
from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.training.config import read_config
from latentseg.training.fewshot.sdfsmis import FewShotOptions, build
from latentseg.training.loop import Loop
from latentseg.training.pack import Pack

TRAININGS: dict[str, dict[str, Any]] = {
    "from the denoiser": {"start": "denoiser"},
    "not from the denoiser": {"start": "matching"},
}
PARTS = ("SQI", "VTCT", "QE", "matching prior")


class Ablated(FewShotSegmenter):
    """The segmenter without one of its parts."""

    without: str = ""

    def encode_support(self, support: Support) -> SupportContext:
        """The support without what the missing part would tell of it."""
        context = super().encode_support(support)
        if self.without == "SQI":
            none = {
                part: {layer: t[:, :, :0] for layer, t in getattr(context.cache, part).items()}
                for part in ("keys", "values")
            }
            rest = {k: t for k, t in vars(context.cache).items() if k not in none}
            return replace(context, cache=SupportCache(**none, **rest))
        if self.without == "QE":
            return replace(context, fg=torch.zeros_like(context.fg), bg=torch.zeros_like(context.bg))
        return context

    def _slabs(
        self, query: Encoded, context: SupportContext, group: Tensor | None
    ) -> Iterator[tuple[Encoded, Tensor | None, Tensor | None]]:
        for slab, own, prior in super()._slabs(query, context, group):
            silent = prior is not None and self.without == "matching prior"
            yield slab, own, torch.zeros_like(prior) if prior is not None and silent else prior


def without(segmenter: FewShotSegmenter, part: str) -> FewShotMethod:
    """The method without one of ``PARTS``."""
    parts = segmenter.parts
    if part == "VTCT":
        inner = parts.translator
        parts = replace(parts, translator=lambda features: torch.zeros_like(inner(features)))  # type: ignore[arg-type]
    ablated = Ablated(parts, options=segmenter.options)
    ablated.without = part
    return FewShotMethod(ablated, name=f"without {part}")


def variants(segmenter: FewShotSegmenter, *, whole_scans: bool) -> Iterator[FewShotMethod]:
    """The full method, and the method without each of its parts."""
    yield FewShotMethod(segmenter, name="full")
    for part in PARTS:
        if part != "matching prior" or segmenter.parts.matching:
            yield without(segmenter, part)
    changes = {"closer look": {"closer": None}, "refinement": {"refinement": None}} | (
        {"place along the body": {"axis": None}} if whole_scans else {}
    )
    for part, change in changes.items():
        options = replace(segmenter.options, **change)
        yield FewShotMethod(FewShotSegmenter(segmenter.parts, options=options), name=f"without {part}")


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
    organs = split_words(options.organs)
    return [kind(dataset, fold=fold, support_slices=options.support_slices, organs=organs) for fold in folds]


def main() -> None:
    """Train what is missing, evaluate everything, write the tables."""
    options = arguments()
    runs, only = protocols(options), [name.strip() for name in options.only.split(",") if name.strip()]
    segmenter = ls.load(backbone=options.backbone, options=SegmentOptions())
    methods = list(variants(segmenter, whole_scans=options.protocol == "EP2"))
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

"""What each part of the tumor method is worth: one training per variant, all categories left out of each.

Usage: ``python benchmarks/ablation_tumor.py --pack FOLDER --backbone FOLDER --runs FOLDER [--only NAME,...]
[--category NAME,...] [--count N --steps N] [--limit N] [--tiny] [--output FOLDER]``; data through
``LATENTSEG_DATA``.

Every training leaves out liver, lung and kidney tumors, gliomas and sarcomas, masks and prompts alike, so
that one set of weights serves all categories. Trainings that are done are not repeated; one that was
stopped goes on. Variants of the refinement share the weights of ``full``. ``--count`` and ``--steps`` make
every training smaller than the configuration says, the organs and the fusion in proportion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latentseg
from latentseg.api import fingerprint, frozen_files, tumor_parts, tumor_stages
from latentseg.backbones.compact import phrase_condition
from latentseg.backbones.registry import resolve
from latentseg.cli.zero_shot import write_tables
from latentseg.evaluation.datasets.tumors import CATEGORIES, Category, TumorCase, get_category
from latentseg.evaluation.tables import markdown_table
from latentseg.evaluation.tumor_methods import DiffuGTS, IntensityOutlier, NoiseAndRestore
from latentseg.evaluation.zero_shot import (
    TumorMethod,
    category_cells,
    evaluate_category,
    summarize_categories,
)
from latentseg.imaging.phantom import abdomen
from latentseg.text import embed
from latentseg.training.config import read_config
from latentseg.training.pack import Pack
from latentseg.tumor.options import RECOMMENDED, TumorOptions
from latentseg.tumor.queries import Queries
from latentseg.tumor.refinement import RefinementOptions
from latentseg.tumor.segmenter import TumorParts, TumorSegmenter
from latentseg.tumor.training import TumorTraining, TumorTrainingOptions

TRAININGS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "without adapters": {"network": {"ratio": 0.0}},
    "encoder features only": {"network": {"photographs": (), "fold": False}},
    "+ denoiser features": {"network": {"stages": (1, 2, 4, 5, 6, 7), "timestep": 100}},
    "without pyramid": {"network": {"pyramid": 0}},
    "as the paper": {"network": {"photographs": (), "fold": False, "pyramid": 0}},
    "real lesions only": {"samples": {"real": 0.65, "synthetic": 0.0}},
    "synthetic lesions only": {"samples": {"real": 0.0, "synthetic": 0.65}},
}
LOOPS = ("loop", "organ_loop", "fusion_loop")
COUNTS = ("count", "organ_count", "fusion_count")
TINY: dict[str, Any] = {"steps": 2, "warmup": 1, "log_every": 1}


class PhantomCategory(Category):
    """One synthetic patient with a liver lesion and one without, for a trial."""

    def cases(self) -> Iterator[TumorCase]:
        """The first."""
        phantom = abdomen(seed=3, shape=(64, 64, 1), lesions=3)
        lesions = [label for label, name in phantom.names.items() if "lesion" in name]
        yield TumorCase("ill", "ill", phantom.image, np.isin(phantom.labels.array, lesions))

    def healthy(self) -> Iterator[TumorCase]:
        """The second."""
        yield TumorCase("healthy", "healthy", abdomen(seed=4, shape=(64, 64, 1)).image, None)


PHANTOM = PhantomCategory("phantom", "liver tumor", (), ())


def options_of(changes: dict[str, dict[str, Any]], size: argparse.Namespace) -> TumorTrainingOptions:
    """The options of ``configs/tumor.yaml`` with all categories left out, some changes, and a size."""
    options = read_config(Path("configs/tumor.yaml"), TumorTrainingOptions)
    without = {"samples": {"without": tuple(c.prompt_concept for c in CATEGORIES.values())}}
    for part in (without, changes):
        for field, values in part.items():
            changed = getattr(options, field).model_copy(update=values)
            options = options.model_copy(update={field: changed})
    samples = (size.count or options.count) / options.count
    steps = (size.steps or options.loop.steps) / options.loop.steps
    few = {name: round(samples * getattr(options, name)) for name in COUNTS}
    loops = {name: getattr(options, name) for name in LOOPS}
    shorter = {
        name: loop.model_copy(update={"steps": round(steps * loop.steps)}) for name, loop in loops.items()
    }
    if size.tiny:
        shorter = {name: loop.model_copy(update=TINY) for name, loop in loops.items()}
        few = {"count": 4, "organ_count": 4, "fusion_count": 2, "batch": 2, "healthy_count": 2}
    return options.model_copy(update={**shorter, **few})


def trained(name: str, folder: Path, asked: argparse.Namespace) -> TumorParts:
    """The parts of a variant, trained now if they are not there."""
    run = asked.runs / name.replace(" ", "-")
    if not (run / "tumor.safetensors").exists():
        options = options_of(TRAININGS[name], asked)
        made_for = fingerprint(frozen_files(folder, options.network))
        facts = {"backbone": made_for, "without": ", ".join(options.samples.without)}
        stages = tumor_stages(folder, options.network)
        training = TumorTraining(options, Pack(asked.pack), stages, Queries(embed), phrase_condition, facts)
        training.run(run, resume=True)
    return tumor_parts(folder, run / "tumor.safetensors")


def methods(parts: Callable[[str], TumorParts], only: list[str]) -> Iterator[TumorMethod]:
    """All variants, and the two baselines."""
    full = parts("full")
    otsu = RefinementOptions(fusion="otsu", inpainting=_refinement().inpainting)
    alone = replace(RECOMMENDED, refinement=None)
    learned = replace(RECOMMENDED, refinement=replace(_refinement(), fusion="learned"))
    silent = replace(full, condition=lambda _: torch.zeros(1, 1, full.backbone.condition_dim))
    variants: dict[str, tuple[TumorParts, TumorOptions]] = {
        "attention map alone (recommended)": (full, alone),
        "without organs": (full, replace(alone, organs=False)),
        "without the closer look": (full, replace(alone, closer=None)),
        "borders of the map": (full, replace(alone, appearance=None)),
        "map cut at one half": (full, replace(alone, level=None)),
        "without organs, cut at one half": (full, replace(alone, organs=False, level=None)),
        "+ pixel residual": (full, replace(RECOMMENDED, refinement=replace(otsu, weights=(1.0, 0.0)))),
        "+ feature residual": (full, replace(RECOMMENDED, refinement=replace(otsu, weights=(0.0, 1.0)))),
        "+ both residuals": (full, replace(RECOMMENDED, refinement=otsu)),
        "+ learned fusion": (full, learned),
        "+ learned fusion, inpainting not guided": (silent, learned),
    }
    for name, (own, options) in variants.items():
        if not only or name in only:
            yield DiffuGTS(TumorSegmenter(own, options=options), name)
    for name in list(TRAININGS)[1:]:
        if not only or name in only:
            yield DiffuGTS(TumorSegmenter(parts(name), options=RECOMMENDED), name)
    yield IntensityOutlier()
    yield NoiseAndRestore(full.backbone)


def _refinement() -> RefinementOptions:
    return RECOMMENDED.refinement or RefinementOptions()


def main() -> None:
    """Train what is missing, evaluate everything, write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--runs", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--only", default="", help="variants, comma-separated")
    parser.add_argument("--category", default="", help="comma-separated; all when left out")
    parser.add_argument("--count", type=int, help="samples of the attention maps of each training")
    parser.add_argument("--steps", type=int, help="steps of the attention maps of each training")
    parser.add_argument("--limit", type=int, help="scans and controls of each category, for a trial")
    parser.add_argument("--tiny", action="store_true", help="two training steps, phantoms: it runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ablation_tumor"))
    options = parser.parse_args()
    folder = resolve(options.backbone)
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    chosen = list(methods(lambda name: trained(name, folder, options), only))
    names = options.category.split(",") if options.category else list(CATEGORIES)
    rows = [
        row
        for category in ([PHANTOM] if options.tiny else [get_category(name) for name in names])
        for row in evaluate_category(category, chosen, limit=options.limit)
    ]
    about = {"date": datetime.now(UTC).date().isoformat(), "version": latentseg.__version__}
    summaries = summarize_categories(rows)
    write_tables(rows, summaries, folder=options.output, about=about)
    sys.stdout.write(markdown_table(*category_cells(summaries), texts=2))


if __name__ == "__main__":
    main()

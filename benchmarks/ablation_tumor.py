"""What each part of the tumor method is worth, at inference and in training.

Usage: ``python benchmarks/ablation_tumor.py [--weights FILE] [--only NAME,...] [--category NAME,...]
[--limit N] [--tiny] [--output FOLDER]`` takes parts away from trained weights, beside the two baselines.

``python benchmarks/ablation_tumor.py --trainings --pack FOLDER --runs FOLDER [--count N --steps N] ...``
trains the attention maps once per variant, smaller than ``configs/tumor.yaml`` says, and compares them alone,
without organs, closer look and residuals, so that nothing but the variant differs. Trainings that are done
are not repeated; one that was stopped goes on.

All weights leave out liver, lung and kidney tumors, gliomas and sarcomas, masks and prompts alike, so that
one set serves all categories. Data through ``LATENTSEG_DATA``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latentseg
from latentseg.backbones.compact import phrase_condition
from latentseg.backbones.registry import resolve
from latentseg.evaluation.datasets.tumors import CATEGORIES, Category, TumorCase, get_category
from latentseg.evaluation.tables import markdown_table
from latentseg.evaluation.tumor_methods import DiffuGTS, IntensityOutlier, NoiseAndRestore
from latentseg.evaluation.zero_shot import (
    TumorMethod,
    category_cells,
    evaluate_category,
    summarize_categories,
    write_category_tables,
)
from latentseg.methods.diffugts.refinement import RefinementOptions
from latentseg.methods.tumor.load import compact_stages, looked_at, on_compact
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED, TumorOptions
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import abdomen
from latentseg.text import embed
from latentseg.training.config import read_config
from latentseg.training.pack import Pack
from latentseg.training.tumor.diffugts import TumorTraining, TumorTrainingOptions

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
ZERO_SHOT = Path(__file__).parent / "weights" / "zero-shot" / "tumor.safetensors"
ALONE = replace(RECOMMENDED, refinement=None)
MAPS = replace(ALONE, organs=False, closer=None)
SHORT: dict[str, Any] = {"warmup": 1, "log_every": 1}


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


def options_of(changes: dict[str, dict[str, Any]], asked: argparse.Namespace) -> TumorTrainingOptions:
    """The options of ``configs/tumor.yaml`` with all categories left out, some changes, and a size.

    Organs are not learned, and the fusion, which maps alone do not use, takes one step.
    """
    options = read_config(Path("configs/tumor.yaml"), TumorTrainingOptions)
    without = {"samples": {"without": tuple(c.prompt_concept for c in CATEGORIES.values())}}
    sizes: dict[str, dict[str, Any]] = {
        "loop": {"steps": asked.steps, "threads": 0},
        "fusion_loop": {"steps": 1, "threads": 0, **SHORT},
        "organs": {"names": {}},
    }
    if asked.tiny:
        sizes["loop"] |= {"steps": 2, **SHORT}
    for part in (without, changes, sizes):
        for field, values in part.items():
            changed = getattr(options, field).model_copy(update=values)
            options = options.model_copy(update={field: changed})
    few = {"count": 4, "batch": 2, "healthy_count": 2} if asked.tiny else {"count": asked.count}
    return options.model_copy(update={**few, "fusion_count": 1})


def trained(name: str, folder: Path, asked: argparse.Namespace) -> TumorNetworks:
    """The parts of a variant, trained now if they are not there."""
    run = asked.runs / name.replace(" ", "-")
    if not (run / "tumor.safetensors").exists():
        options = options_of(TRAININGS[name], asked)
        made_for = looked_at(folder, options.network)
        facts = {"backbone": made_for, "without": ", ".join(options.samples.without)}
        stages = compact_stages(folder, options.network)
        training = TumorTraining(options, Pack(asked.pack), stages, Queries(embed), phrase_condition, facts)
        training.run(run, resume=True)
    return on_compact(folder, run / "tumor.safetensors", torch.device("cpu"))


def trainings(folder: Path, asked: argparse.Namespace, only: list[str]) -> Iterator[TumorMethod]:
    """The attention maps of every training."""
    for name in TRAININGS:
        if not only or name in only:
            yield DiffuGTS(TumorSegmenter(trained(name, folder, asked), options=MAPS), name)


def inference(full: TumorNetworks, only: list[str]) -> Iterator[TumorMethod]:
    """Trained weights with parts taken away, and the two baselines."""
    otsu = RefinementOptions(fusion="otsu", inpainting=_refinement().inpainting)
    learned = replace(RECOMMENDED, refinement=replace(_refinement(), fusion="learned"))
    silent = replace(full, condition=lambda _: torch.zeros(1, 1, full.backbone.condition_dim))
    variants: dict[str, tuple[TumorNetworks, TumorOptions]] = {
        "attention map alone (recommended)": (full, ALONE),
        "without organs": (full, replace(ALONE, organs=False)),
        "without the closer look": (full, replace(ALONE, closer=None)),
        "without the comparison of halves": (full, replace(ALONE, mirrored=0.0)),
        "without organs and closer look": (full, MAPS),
        "borders of the map": (full, replace(ALONE, appearance=None)),
        "map cut at one half": (full, replace(ALONE, level=None)),
        "without organs, cut at one half": (full, replace(ALONE, organs=False, level=None)),
        "+ pixel residual": (full, replace(RECOMMENDED, refinement=replace(otsu, weights=(1.0, 0.0)))),
        "+ feature residual": (full, replace(RECOMMENDED, refinement=replace(otsu, weights=(0.0, 1.0)))),
        "+ both residuals": (full, replace(RECOMMENDED, refinement=otsu)),
        "+ learned fusion": (full, learned),
        "+ learned fusion without guidance": (silent, learned),
    }
    for name, (own, options) in variants.items():
        if not only or name in only:
            yield DiffuGTS(TumorSegmenter(own, options=options), name)
    for baseline in (IntensityOutlier(), NoiseAndRestore(full.backbone)):
        if not only or baseline.name in only:
            yield baseline


def _refinement() -> RefinementOptions:
    return RECOMMENDED.refinement or RefinementOptions()


def main() -> None:
    """Train what is missing, evaluate everything, write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", action="store_true", help="compare trainings, not parts at inference")
    parser.add_argument("--weights", type=Path, default=ZERO_SHOT, help="of what parts are taken away")
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--pack", type=Path, default=Path("runs/pack-tumor"), help="of the trainings")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation-tumor"), help="where they are kept")
    parser.add_argument("--count", type=int, default=1000, help="samples of each training")
    parser.add_argument("--steps", type=int, default=700, help="steps of each training")
    parser.add_argument("--only", default="", help="variants and baselines, comma-separated")
    parser.add_argument("--category", default="", help="comma-separated; all when left out")
    parser.add_argument("--limit", type=int, help="scans and controls of each category, for a trial")
    parser.add_argument("--tiny", action="store_true", help="two training steps, phantoms: it runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ablation_tumor"))
    options = parser.parse_args()
    folder = resolve(options.backbone)
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    if options.trainings:
        chosen = list(trainings(folder, options, only))
    else:
        chosen = list(inference(on_compact(folder, options.weights, torch.device("cpu")), only))
    names = options.category.split(",") if options.category else list(CATEGORIES)
    rows = [
        row
        for category in ([PHANTOM] if options.tiny else [get_category(name) for name in names])
        for row in evaluate_category(category, chosen, limit=options.limit)
    ]
    about = {"date": datetime.now(UTC).date().isoformat(), "version": latentseg.__version__}
    summaries = summarize_categories(rows)
    write_category_tables(rows, summaries, folder=options.output, about=about)
    sys.stdout.write(markdown_table(*category_cells(summaries), texts=2))


if __name__ == "__main__":
    main()

"""What the peaks of a head are lowered by to be scores, set on heads without a tumor.

Usage: ``python benchmarks/head_scores.py --weights FOLDER [--alarms SLICES SCANS]``; the folder holds the
files of the compact model for tumors, of which ``tumor-head-picture.safetensors`` is written again with its
offset. Where it holds no maps of heads, as for a zero-shot evaluation, those of ``tumor.safetensors`` do.

Heads are those that ``configs/heads.csv`` keeps for such choices, whole, and the IXI volunteers of the
training, of whom there are single slices. So many healthy slices and scans may still be suspected.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import latentseg as ls
from latentseg.errors import LatentsegWarning
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import read
from latentseg.methods.tumor import network
from latentseg.methods.tumor.beside_map import together
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.picture_network import file_of_picture, save_picture
from latentseg.methods.tumor.preparing import alone
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.slice_attention import Attention
from latentseg.methods.tumor.views import Offset, key_of, looks_of
from latentseg.training.config import read_config
from latentseg.training.splits import Split
from latentseg.training.tumor.calibration import Alarms, Shown, offset_of

PROMPT = "brain tumor"
OPTIONS = replace(RECOMMENDED, mirrored=0.0)


def heads() -> Iterator[tuple[str, Path]]:
    """People without a tumor, and a scan of theirs."""
    root, split = data_root(), read_config(Path("configs/split.yaml"), Split)
    for path in sorted((root / "head_volumes" / "choice" / "none").glob("*.nii.gz")):
        yield path.name.split("_")[0], path
    for path in sorted((root / "healthy_brain").glob("*.png")):
        if split.part(path.relative_to(root)) == "training":
            yield path.name.split("_")[0], path


@torch.no_grad()
def peaks_of(segmenter: TumorSegmenter, person: str, path: Path) -> Shown:
    """Peaks of the slices of a scan, before anything is taken off."""
    prepared = segmenter.prepare(read(path, modality="MR"))
    query = segmenter.networks.queries(PROMPT, "MR")
    own = alone(prepared, query, segmenter.networks, OPTIONS)
    attention = Attention(own.networks, OPTIONS)
    scores = together(attention, own, attention.of_scan(own, query)).scores
    return Shown(person, torch.special.logit(scores, 1e-6).tolist(), looks_of(len(scores), own.step_mm))


def main() -> None:
    """Set, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--alarms", type=float, nargs=2, default=(0.02, 0.1))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", LatentsegWarning)
    head = options.weights / network.file_alone("head")
    if not head.exists():
        trained, facts = network.load(options.weights / network.FILE)
        trained.views.by_organ = {key_of("brain", "MR"): Offset(0.0)}
        network.save(head, trained, facts)
    segmenter = ls.load("tumor", weights=options.weights, options=OPTIONS)
    picture = segmenter.networks.alone["head"].picture
    if picture is None:
        raise SystemExit(f"{options.weights} holds no {file_of_picture('head')}")
    picture.config = picture.config.model_copy(update={"offset": Offset(0.0)})
    shown = [peaks_of(segmenter, person, path) for person, path in heads()]
    offset = offset_of(shown, Alarms(*options.alarms))
    picture.config = picture.config.model_copy(update={"offset": offset})
    save_picture(options.weights / file_of_picture("head"), picture)
    sys.stdout.write(f"{offset.one} for a slice, {offset.growth} more for each e times as many\n")
    for one in shown:
        sys.stdout.write(f"{one.person}: {max(one.scores):.1f} in {one.looks:.0f} looks\n")


if __name__ == "__main__":
    main()

"""What the peaks of pictures are lowered by to be scores, set on people without a tumor.

Usage: ``python benchmarks/picture_scores.py PART --weights FOLDER [--alarms SLICES SCANS]``; the part is
``head`` or ``kidney``, and the folder holds the files of the compact model for tumors, of
which ``tumor-PART-picture.safetensors`` is written again with its offset. Where it holds no maps of heads, as
for a zero-shot evaluation, those of ``tumor.safetensors`` do.

Heads are those that ``configs/heads.csv`` keeps for such choices, whole, and the IXI volunteers of the
training, of whom there are single slices. Abdomens are those of SABS that ``configs/tumor-abdomen.yaml``
keeps from the training, whole, and slices of the people of NIH's collection who are trained on. So many
healthy slices and scans may still be suspected.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import latentseg as ls
from latentseg.errors import LatentsegWarning
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read
from latentseg.imaging.intensity import Modality
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

OPTIONS = replace(RECOMMENDED, mirrored=0.0)
SABS_KEPT = (12, 14, 16, 17, 18)  # from the training of networks of the abdomen


def trained_on(pattern: str) -> Iterator[Path]:
    """Files below the data folder that training may see."""
    root, split = data_root(), read_config(Path("configs/split.yaml"), Split)
    for path in sorted(root.glob(pattern)):
        if not path.stem.endswith("_label") and split.part(path.relative_to(root)) == "training":
            yield path


def heads() -> Iterator[tuple[str, Volume]]:
    """People without a tumor, and a scan of their heads."""
    whole = sorted((data_root() / "head_volumes" / "choice" / "none").glob("*.nii.gz"))
    for path in [*whole, *trained_on("healthy_brain/*.png")]:
        yield path.name.split("_")[0], read(path, modality="MR")


def abdomens() -> Iterator[tuple[str, Volume]]:
    """People without a tumor, and a scan of their abdomens."""
    for number in SABS_KEPT:
        path = data_root() / "sabs" / f"image_{number}.nii.gz"
        yield f"SABS {number}", read(path, modality="CT", orientation="LAS")
    for path in trained_on("slices_2d/nih_pancreas/*.jpg"):
        yield path.name.split("-")[0], read(path, modality="CT")


class Part(NamedTuple):
    """What is asked of whom, in which modality; the organ of the prompt."""

    prompt: str
    people: Callable[[], Iterator[tuple[str, Volume]]]
    modality: Modality
    organ: str


PARTS = {
    "head": Part("brain tumor", heads, "MR", "brain"),
    "kidney": Part("kidney tumor", abdomens, "CT", "kidney"),
}


@torch.no_grad()
def peaks_of(segmenter: TumorSegmenter, part: Part, person: str, scan: Volume) -> Shown:
    """Peaks of the slices of a scan, before anything is taken off."""
    prepared = segmenter.prepare(scan)
    query = segmenter.networks.queries(part.prompt, part.modality)
    own = alone(prepared, query, segmenter.networks, OPTIONS)
    attention = Attention(own.networks, OPTIONS)
    scores = together(attention, own, attention.of_scan(own, query)).scores
    return Shown(person, torch.special.logit(scores, 1e-6).tolist(), looks_of(len(scores), own.step_mm))


def main() -> None:
    """Set, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--alarms", type=float, nargs=2, default=(0.02, 0.1))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", LatentsegWarning)
    part = PARTS[options.part]
    maps = options.weights / network.file_alone(options.part)
    if options.part not in network.WITHIN and not maps.exists():
        trained, facts = network.load(options.weights / network.FILE)
        trained.views.by_organ = {key_of(part.organ, part.modality): Offset(0.0)}
        network.save(maps, trained, facts)
    segmenter = ls.load("tumor", weights=options.weights, options=OPTIONS)
    picture = segmenter.networks.alone[options.part].picture
    if picture is None:
        raise SystemExit(f"{options.weights} holds no {file_of_picture(options.part)}")
    picture.config = picture.config.model_copy(update={"offset": Offset(0.0)})
    shown = [peaks_of(segmenter, part, person, scan) for person, scan in part.people()]
    offset = offset_of(shown, Alarms(*options.alarms))
    picture.config = picture.config.model_copy(update={"offset": offset})
    save_picture(options.weights / file_of_picture(options.part), picture)
    sys.stdout.write(f"{offset.one} for a slice, {offset.growth} more for each e times as many\n")
    for one in shown:
        sys.stdout.write(f"{one.person}: {max(one.scores):.1f} in {one.looks:.0f} looks\n")


if __name__ == "__main__":
    main()

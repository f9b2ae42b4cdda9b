"""What scores of tumors are lowered by, set anew for trained weights on the healthy people of a pack.

Usage: ``python benchmarks/tumor_scores.py CONFIG --pack FOLDER --weights FILE --output FILE [--only kidney]
[--organs FILE] [--picture FILE] [--everyone] [--alarms SLICES SCANS]``.

``CONFIG`` is that of the training, such as ``configs/tumor-abdomen.yaml``: it says which people were kept
from it (``samples: validation``) and are healthy (``healthy``), how many of them may be suspected
(``false_alarms``, ``scan_alarms``; ``--alarms`` instead), and the share of lesions that are told
(``lesions``). The weights are written again with nothing changed but that share, ``by_organ`` and, if that is
asked for, what tells organs and lesions (``--organs``). Scores of other organs than ``--only`` are kept; with
``--everyone`` healthy people of the training count too, of whom there are many more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from latentseg.backbones.registry import resolve
from latentseg.methods.tumor import network
from latentseg.methods.tumor.load import compact_stages
from latentseg.methods.tumor.picture_network import read_picture
from latentseg.methods.tumor.queries import queries_of
from latentseg.training.config import read_config
from latentseg.training.pack import Pack
from latentseg.training.tumor.calibration import Alarms, Judges, calibrate_organs
from latentseg.training.tumor.diffugts import TumorTrainingOptions
from latentseg.training.tumor.samples import Samples


def take_organs(trained: network.TumorNetwork, other: network.TumorNetwork) -> None:
    """Let other weights tell where the organs are; how far beside them a tumor may lie stays."""
    beside = trained.organs.beside
    trained.organs = other.organs
    trained.organs.beside = beside
    told = {name: getattr(other.config, name) for name in ("around", "lesions")}
    trained.config = trained.config.model_copy(update=told)


def main() -> None:
    """Calibrate, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", help="Organs, with commas between; others are left as they are.")
    parser.add_argument("--organs", type=Path, help="Weights whose organs are taken over.")
    parser.add_argument("--picture", type=Path, help="A picture network by which lesions are told as well.")
    parser.add_argument("--everyone", action="store_true", help="Healthy people of the training as well.")
    parser.add_argument("--alarms", type=float, nargs=2, help="Shares of slices and scans that may pass.")
    parser.add_argument("--backbone", default="compact")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = read_config(options.config, TumorTrainingOptions)
    trained, facts = network.load(options.weights)
    if options.organs:
        take_organs(trained, network.load(options.organs)[0])
    if trained.organs.lesions:
        shares = {"lesions": training.network.lesions}
        trained.config = trained.config.model_copy(update=shares)
    frozen = compact_stages(resolve(options.backbone), trained.config)
    queries = queries_of(facts, text_dim=trained.config.text_dim)
    before = trained.views.by_organ
    asked = training.samples.model_copy(update={"validation": ()}) if options.everyone else training.samples
    samples = Samples(asked, Pack(options.pack))
    picture = read_picture(options.picture, frozen.photographs) if options.picture else None
    healthy = calibrate_organs(
        Judges(trained, frozen, queries, picture),
        samples,
        views={name: part for name, part in training.views.items() if name in training.healthy},
        alarms=Alarms(*(options.alarms or (training.false_alarms, training.scan_alarms))),
    )
    only = options.only.split(",") if options.only else [key.rpartition(" ")[0] for key in healthy]
    set_anew = {key: of for key, of in trained.views.by_organ.items() if key.rpartition(" ")[0] in only}
    trained.views.by_organ = before | set_anew
    network.save(options.output, trained, facts)
    for key, offset in set_anew.items():
        sys.stdout.write(f"{key}: {offset.one} for a slice, {offset.growth} more for each e times as many\n")


if __name__ == "__main__":
    main()

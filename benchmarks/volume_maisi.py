"""One tumor prompt in one whole volume on MAISI at full size, random weights: seconds and peak memory.

Usage: ``python benchmarks/volume_maisi.py [--shape 256 256 128] [--preset paper] [--threads 2] [--tiny]``.

A phantom of a CT goes through the segmenter as ``latentseg segment -p`` would take it: features, attention
maps, inpainting, decoding, residuals, and every map of the evidence. Random weights suspect about half of the
volume, which a trained network would not; the autoencoder and the denoiser work on whole volumes whatever is
suspected, so that their time is that of trained weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from latentseg.backbones.device import fastest_dtype
from latentseg.backbones.maisi.conditions import phrase_condition
from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
from latentseg.backbones.maisi.networks import AUTOENCODER, VARIANTS, new_autoencoder, new_unet
from latentseg.methods.tumor.evidence import MAPS
from latentseg.methods.tumor.features import PAPER_NETWORK, FrozenStages
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import PRESETS
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import abdomen
from latentseg.text import embed

TINY_AUTOENCODER = {"num_channels": [4, 8, 12], "norm_num_groups": 2}
TINY_UNET = {"num_channels": [4, 8, 12, 16], "num_head_channels": [0, 0, 4, 4], "norm_num_groups": 2}
VARIANT = "maisi-ct-rflow"


def random_networks(*, tiny: bool) -> TumorNetworks:
    """MAISI and the paper's tumor network, random weights."""
    torch.manual_seed(0)
    small = (TINY_AUTOENCODER, TINY_UNET) if tiny else ({}, {})
    codec, unet = new_autoencoder(AUTOENCODER | small[0]), new_unet(VARIANTS[VARIANT].unet | small[1])
    options = MaisiOptions(dtype=fastest_dtype(), feature_downscale=PAPER_NETWORK.cell)
    backbone = MaisiBackbone(codec, unet, scale_factor=1.0, variant=VARIANT, options=options)
    stages = FrozenStages(backbone, PAPER_NETWORK)
    network = TumorNetwork.for_stages(stages).eval().requires_grad_(requires_grad=False)
    return TumorNetworks(stages, network, Queries(embed), phrase_condition, "random")


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 256, 128], help="columns, rows, slices")
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="networks of a thousandth of the size")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/volume_maisi.json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    columns, rows, slices = (32, 32, 8) if asked.tiny else asked.shape
    scan = abdomen(seed=0, shape=(columns, rows, slices)).image
    options = replace(PRESETS[asked.preset], min_presence=0.0, voxel_mm=1.0)
    segmenter = TumorSegmenter(random_networks(tiny=asked.tiny), options=options)
    start = time.perf_counter()
    prepared = segmenter.prepare(scan)
    encoded = time.perf_counter()
    found = segmenter.predict(prepared, "liver tumor")
    predicted = time.perf_counter()
    maps = {name: found.evidence.on_grid(name) for name in MAPS}
    shown = time.perf_counter()
    figures = {
        "scan": [columns, rows, slices],
        "block": list(prepared.seen.images.shape),
        "preset": asked.preset,
        "dtype": str(fastest_dtype()).removeprefix("torch."),
        "threads": asked.threads,
        "tiny": asked.tiny,
        "prepare_s": round(encoded - start, 1),
        "predict_s": round(predicted - encoded, 1),
        "evidence_s": round(shown - predicted, 1),
        "total_s": round(shown - start, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "suspected_share": round(float((maps["attention"] >= 0.5).mean()), 3),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(figures, indent=1))
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

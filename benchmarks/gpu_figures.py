"""What a GPU does here: agreement with the CPU, and SD-FSMIS's training at the size of Stable Diffusion 1.5.

Usage: ``python benchmarks/gpu_figures.py agreement|training [--thin 1] [--steps 5] [--output FILE]``.

*agreement*: one few-shot target and one prompt on a phantom with the embedded weights, on the CPU in float32
and on the device in float32 and bfloat16: Dice of the masks, largest difference of the probabilities.
*training*: random weights, batches of 1 and 4 pairs: seconds a step and peak memory; and the pairs a second
that the loader draws by itself on 1 and 4 threads, beside those that a step takes.

Both are added to ``--output``. Without a GPU everything runs on the CPU, which proves that the script works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

import latentseg as ls
from latentseg.backbones.device import pick_device
from latentseg.methods.sdfsmis.condition import DinoFeatures
from latentseg.phantom.bodies import abdomen
from latentseg.training.fewshot.frozen import FrozenParts
from latentseg.training.fewshot.paper import PaperModel, PaperOptions, PaperTask
from latentseg.training.fewshot.scan_pack import LabelledScan, pack_scans
from latentseg.training.log import read_log
from latentseg.training.loop import Loop, LoopOptions
from latentseg.training.pack import Pack

Figures = dict[str, Any]
LIVER = 1  # label of the phantom


def agreement(asked: argparse.Namespace) -> Figures:
    """The same scan on the CPU and on the device."""
    shape = (256, 256, 32) if asked.thin == 1 else (96, 96, 6)
    shown, scan = abdomen(seed=0, shape=shape), abdomen(seed=1, lesions=2, shape=shape).image
    liver = ls.Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    figures: Figures = {}
    for method, target in (("fewshot", liver), ("tumor", "liver tumor")):
        name = target if isinstance(target, str) else target.name
        runs: tuple[tuple[str, str], ...] = (("cpu", "fp32"), ("auto", "fp32"), ("auto", "bf16"))
        found = []
        for device, dtype in runs:
            start = time.perf_counter()
            found.append(ls.load(method, device=device, dtype=dtype)(scan, [target])[name])
            figures[f"{method} {device} {dtype} s"] = round(time.perf_counter() - start, 2)
        for (device, dtype), one in list(zip(runs, found, strict=True))[1:]:
            both = 2 * int((one.mask & found[0].mask).sum())
            total = int(one.mask.sum() + found[0].mask.sum())
            off = float(np.abs(one.probability - found[0].probability).max())
            dice = both / total if total else 1.0
            figures[f"{method} {device} {dtype}"] = {"dice": dice, "largest difference": off}
    return figures


def random_parts(thin: int) -> FrozenParts:
    """Stable Diffusion 1.5 and DINOv2-base with random weights, their widths divided."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[width // thin for width in (128, 256, 512, 512)],
        layers_per_block=2,
    )
    widths = [32 * max(1, width // thin // 32) for width in (320, 640, 1280, 1280)]
    unet = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8)
    dino = Dinov2Model(Dinov2Config(image_size=224, patch_size=14, num_hidden_layers=12 // thin))
    return FrozenParts("random", vae.requires_grad_(False).eval(), unet, DinoFeatures(dino))


def phantom_pack(folder: Path) -> Pack:
    """Two phantoms."""
    scans = (
        LabelledScan(str(seed), made.image, made.labels, made.names)
        for seed in (0, 1)
        for made in [abdomen(seed=seed)]
    )
    return pack_scans(scans, source="phantom", folder=folder, whole_range=True)


def training(asked: argparse.Namespace) -> Figures:
    """Steps of the released recipe at two batch sizes, and its loader alone."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as place:
        packed = phantom_pack(Path(place) / "pack")
        usable = {scan.case: range(scan.count) for scan in packed.scans}
        for batch in (1, 4):
            loop = LoopOptions(
                steps=asked.steps, learning_rate=1e-5, warmup=0, ema=0, log_every=1, exports=False, workers=4
            )
            options = PaperOptions(loop=loop, batch=batch, checkpointing=True, unseen=())
            task = PaperTask(options, packed, usable, random_parts(asked.thin))
            figures["trained parameters"] = sum(p.numel() for p in task.model.parameters())
            figures[f"batch {batch}"] = steps_of(task, loop, Path(place) / str(batch))
        for threads in (1, 4):
            figures[f"pairs a second, {threads} threads"] = draw_rate(task, threads)
    return figures


class Unsaved(Loop[PaperModel]):
    """A run without a checkpoint, which is 13 GB and not measured."""

    def save(self) -> None:
        """Nothing."""


def steps_of(task: PaperTask, options: LoopOptions, folder: Path) -> Figures:
    """Median seconds of a step and peak memory of the device; what went wrong where it does not fit."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        Unsaved(task, options, folder).run()
    except (torch.OutOfMemoryError, ls.LatentsegError) as error:
        return {"failed": str(error).splitlines()[0]}
    rates = [row["images_per_s"] for row in read_log(folder / "log.jsonl")]
    rate = float(np.median(rates[1:] or rates))
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return {"pairs a second": rate, "seconds a step": task.options.batch / rate, "peak GiB": peak}


def draw_rate(task: PaperTask, threads: int, *, draws: int = 64) -> float:
    """Pairs a second of the loader alone."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda seed: task.pairs.draw(np.random.default_rng(seed), 1), range(draws)))
    return draws / (time.perf_counter() - start)


MEASURES = {"agreement": agreement, "training": training}


def main() -> None:
    """Measure, print, and add to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--thin", type=int, choices=(1, 2, 4), default=1, help="divide the widths")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_figures.json"))
    asked = parser.parse_args()
    known: Figures = json.loads(asked.output.read_text(encoding="utf-8")) if asked.output.exists() else {}
    device = pick_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    known |= {"date": datetime.now(UTC).date().isoformat(), "device": name, "torch": torch.__version__}
    known[asked.measure] = {"thin": asked.thin} | MEASURES[asked.measure](asked)
    print(json.dumps(known[asked.measure], indent=1))
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

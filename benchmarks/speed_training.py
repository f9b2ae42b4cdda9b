"""Throughput of every training, and the share of the machine's measured matrix-multiply peak that it reaches.

Usage: ``python benchmarks/speed_training.py --pack FOLDER --backbone FOLDER [--steps 6] [--output FILE]``.

Each training of ``configs/`` takes a few steps; images per second are those of its own log (data included in
neither), floating-point operations are counted by torch over one whole step, forward and backward. The peak
is the best of several square products on the same threads, in the type that trainings take on this processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.device import fastest_dtype
from latentseg.text import embed
from latentseg.training import autoencoder as autoencoder_training
from latentseg.training import denoiser as denoiser_training
from latentseg.training.config import read_config
from latentseg.training.fewshot import sdfsmis as fewshot_training
from latentseg.training.log import read_log
from latentseg.training.loop import Loop, Task
from latentseg.training.pack import Pack

Made = tuple[Task[Any], Any]


def matmul_peak(dtype: torch.dtype, *, edge: int = 2048, repeats: int = 5) -> float:
    """Best rate of a product of square matrices, in FLOP/s."""
    cuda = torch.cuda.is_available()
    a, b = (torch.randn(edge, edge).to("cuda" if cuda else "cpu", dtype) for _ in range(2))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * edge**3 / min(times)


def trainings(packed: Pack, folder: Path) -> dict[str, Callable[[], Made]]:
    """How to build each training, with its options."""
    configs = Path("configs")

    def autoencoder() -> Made:
        options = read_config(configs / "autoencoder.yaml", autoencoder_training.AutoencoderOptions)
        return autoencoder_training.build(options, packed), options

    def denoiser() -> Made:
        options = read_config(configs / "denoiser.yaml", denoiser_training.DenoiserOptions)
        backbone = CompactBackbone.from_folder(folder)
        return denoiser_training.build(options, packed, backbone, embed=embed), options

    def fewshot() -> Made:
        options = read_config(configs / "fewshot.yaml", fewshot_training.FewShotOptions)
        return fewshot_training.build(options, packed, CompactBackbone.from_folder(folder)), options

    return {"autoencoder": autoencoder, "denoiser": denoiser, "few-shot": fewshot}


def measure(task: Task[Any], options: Any, *, steps: int, peak: float) -> dict[str, float]:
    """Images per second, GFLOP per image, and share of the peak."""
    batch = task.batch(np.random.default_rng(0), 0.7)
    with FlopCounterMode(display=False) as counter:
        loss, _ = task.loss(batch)
        loss.backward()
    per_image = counter.get_total_flops() / task.images(batch)
    with tempfile.TemporaryDirectory() as folder:
        short = options.loop.model_copy(update={"steps": steps, "log_every": 1})
        Loop(task, short, Path(folder)).run()
        rates = [row["images_per_s"] for row in read_log(Path(folder) / "log.jsonl")]
    rate = float(np.median(rates[1:] or rates))
    return {
        "images_per_s": round(rate, 2),
        "gflop_per_image": round(per_image / 1e9, 2),
        "share_of_peak": round(rate * per_image / peak, 3),
    }


def main() -> None:
    """Measure every training and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speed_training.json"))
    options = parser.parse_args()
    dtype = fastest_dtype("cuda" if torch.cuda.is_available() else "cpu")
    precision, peak = str(dtype).removeprefix("torch."), matmul_peak(dtype)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "matmul_gflops": round(peak / 1e9, 1),
    }
    about = f"{peak / 1e9:.0f} GFLOP/s in {precision} on {torch.get_num_threads()} threads"
    sys.stdout.write(f"matrix product: {about}\n\n")
    sys.stdout.write("| training | images/s | GFLOP per image | share of peak |\n|---|---:|---:|---:|\n")
    for name, build in trainings(Pack(options.pack), options.backbone).items():
        figures = measure(*build(), steps=options.steps, peak=peak)
        results[name] = figures
        sys.stdout.write(f"| {name} | " + " | ".join(map(str, figures.values())) + " |\n")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

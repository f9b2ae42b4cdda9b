"""Speed and memory of MAISI on a CPU: encode, inpaint and decode one whole volume, with random weights.

Usage: ``python benchmarks/speed_maisi.py [--shape 128 256 256] [--steps 30] [--threads 2] [--tiny]``.

Two processes, one after the other. *ours*: `MaisiBackbone` in the fastest precision of the machine (or
``--dtype``). *as shipped*: monai's classes with the published settings in float32 (half-precision
normalization and the CUDA attention left out, which no CPU runs), on ``--shipped-shape`` and a few steps,
because whole volumes need several times the memory; its seconds are scaled by voxels and steps. The matmul
peak is measured before and after; compare ratios, not seconds, across machines.

``--estimate`` prints what volumes of several sizes would take, without running anything. ``--tiny`` takes
networks of a thousandth of the size and proves that the script works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TINY_AUTOENCODER = {"num_channels": [4, 8, 12], "norm_num_groups": 2}
TINY_UNET = {"num_channels": [4, 8, 12, 16], "num_head_channels": [0, 0, 4, 4], "norm_num_groups": 2}
SHARE_OF_HOLE = 4  # the hole is a box of a quarter of each edge


@dataclass(frozen=True)
class Run:
    """Seconds of one volume, and the peak of the resident memory of its process."""

    what: str
    dtype: str
    shape: tuple[int, int, int]
    steps: int
    encode_s: float
    step_s: float
    decode_s: float
    peak_gb: float
    estimate_gb: float | None

    @property
    def total_s(self) -> float:
        """Encode, all steps, decode."""
        return round(self.encode_s + self.steps * self.step_s + self.decode_s, 2)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and its seconds."""
    start = time.perf_counter()
    out = run()
    return out, time.perf_counter() - start


def networks(options: argparse.Namespace, **changes: Any) -> tuple[Any, Any]:
    """An autoencoder and the denoiser of a variant, random weights."""
    import torch

    from latentseg.backbones.maisi.networks import AUTOENCODER, VARIANTS, new_autoencoder, new_unet

    torch.manual_seed(0)
    small = (TINY_AUTOENCODER, TINY_UNET) if options.tiny else ({}, {})
    codec = new_autoencoder(AUTOENCODER | changes | small[0])
    return codec, new_unet(VARIANTS[options.variant].unet | small[1])


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Encode, inpaint, decode through `MaisiBackbone`."""
    import torch

    from latentseg.backbones.device import fastest_dtype
    from latentseg.backbones.maisi.conditions import MaisiCondition
    from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
    from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask

    dtypes = {"auto": fastest_dtype(), "bf16": torch.bfloat16, "fp32": torch.float32}
    run = MaisiOptions(dtype=dtypes[options.dtype])
    general = MaisiBackbone(*networks(options), scale_factor=1.0, variant=options.variant, options=run)
    backbone = general.for_volume(tuple(options.shape))
    images, mask = torch.rand(1, 1, *options.shape) * 2 - 1, torch.zeros(1, 1, *options.shape)
    mask[(..., *(slice(n // SHARE_OF_HOLE, n // 2) for n in options.shape))] = 1
    holes, condition = pool_mask(mask, backbone.downscale), MaisiCondition().token()
    latents, encode_s = timed(lambda: backbone.encode(images))
    how = InpaintingOptions(steps=options.steps)
    filled, inpaint_s = timed(
        lambda: inpaint(backbone, latents, holes, condition, keys=["scan"], options=how)
    )
    healthy, decode_s = timed(lambda: backbone.decode(filled))
    if not bool(torch.isfinite(healthy).all()):
        raise SystemExit("the decoded volume is not finite")
    return {
        "dtype": str(run.dtype).removeprefix("torch."),
        "seconds": [encode_s, inpaint_s / options.steps, decode_s],
        "estimate_gb": backbone.memory(tuple(options.shape)).inpainting / 1e9,
    }


def shipped(options: argparse.Namespace) -> dict[str, Any]:
    """The same work by monai's own calls in float32."""
    import torch

    codec, unet = networks(options, norm_float16=False)
    codec.eval()
    unet.eval()
    for module in unet.modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = False
    x = torch.rand(1, 1, *reversed(options.shape))
    inputs = {"spacing_tensor": torch.full((1, 3), 150.0)}
    if unet.num_class_embeds is not None:
        inputs["class_labels"] = torch.ones(1, dtype=torch.long)
    if unet.include_top_region_index_input:
        one_hot = 100 * torch.eye(4)
        inputs |= {"top_region_index_tensor": one_hot[1:2], "bottom_region_index_tensor": one_hot[2:3]}
    with torch.no_grad():
        (z, _), encode_s = timed(lambda: codec.encode(x))
        steps = range(options.steps)
        _, steps_s = timed(lambda: [unet(z, torch.tensor([500.0]), **inputs) for _ in steps])
        _, decode_s = timed(lambda: codec.decode(z))
    return {"dtype": "float32", "seconds": [encode_s, steps_s / options.steps, decode_s], "estimate_gb": None}


WORK = {"ours": ours, "shipped": shipped}


def measure(what: str, options: argparse.Namespace, shape: list[int], steps: int) -> Run:
    """Run one kind of work in a process of its own."""
    command = [sys.executable, __file__, "--child", what, "--threads", str(options.threads)]
    command += ["--dtype", options.dtype, "--variant", options.variant, "--steps", str(steps)]
    command += ["--shape", *map(str, shape), *(["--tiny"] if options.tiny else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")  # noqa: S603 - our own script
    text = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed with exit code {process.returncode}")
    found = json.loads(text.splitlines()[-1])
    encode_s, step_s, decode_s = (round(s, 3) for s in found["seconds"])
    depth, height, width = shape
    return Run(
        what,
        found["dtype"],
        (depth, height, width),
        steps,
        encode_s,
        step_s,
        decode_s,
        round(usage.ru_maxrss / 1e6, 2),
        None if found["estimate_gb"] is None else round(found["estimate_gb"], 2),
    )


def scaled(run: Run, shape: list[int], steps: int) -> float:
    """Seconds of a run if it did another volume and other steps, all being linear in voxels."""
    factor = math.prod(shape) / math.prod(run.shape)
    return round(factor * (run.encode_s + steps * run.step_s + run.decode_s), 1)


def matmul_gflops(threads: int) -> dict[str, float]:
    """Rate of a matrix product in both precisions, the best of five."""
    import torch

    torch.set_num_threads(threads)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(1024, 1024).to(dtype)
        best = min(timed(lambda a=a: a @ a)[1] for _ in range(6))  # type: ignore[misc]
        rates[str(dtype).removeprefix("torch.")] = round(2 * 1024**3 / best / 1e9, 1)
    return rates


ESTIMATED = ((128, 256, 256), (256, 256, 256), (128, 512, 512), (512, 512, 512))


def print_estimates(options: argparse.Namespace) -> None:
    """A table of memory estimates, from networks without weights."""
    import torch

    from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions

    sys.stdout.write("|volume|dtype|encode GB|features GB|denoise GB|decode GB|\n|---|---|---|---|---|---|\n")
    for dtype in (torch.bfloat16, torch.float32):
        with torch.device("meta"):
            parts = networks(options)
        run = MaisiOptions(dtype=dtype, device="meta")
        backbone = MaisiBackbone(*parts, scale_factor=1.0, variant=options.variant, options=run)
        for shape in ESTIMATED:
            needs = backbone.memory(shape)
            steps = (needs.encode, needs.features, needs.denoise, needs.decode)
            row = ["x".join(map(str, shape)), str(dtype)[6:], *(f"{step / 1e9:.1f}" for step in steps)]
            sys.stdout.write(f"|{'|'.join(row)}|\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 256, 256], help="slices, rows, columns")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--variant", default="maisi-ct-rflow")
    parser.add_argument(
        "--shipped-shape", type=int, nargs=3, default=[128, 128, 128], help="rows: 64 or more"
    )
    parser.add_argument("--shipped-steps", type=int, default=2)
    parser.add_argument("--estimate", action="store_true", help="print memory estimates and end")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speed_maisi.json"))
    parser.add_argument("--child", choices=list(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny and not options.child:
        options.shape, options.shipped_shape, options.steps = [32, 64, 64], [32, 64, 32], 2
    return options


def child(options: argparse.Namespace) -> None:
    """Do the work and print what it took as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    sys.stdout.write(json.dumps(WORK[options.child](options)) + "\n")


def main() -> None:
    """Run both, print a table, write JSON."""
    options = parse()
    if options.child:
        child(options)
        return
    if options.estimate:
        print_estimates(options)
        return
    before = matmul_gflops(options.threads)
    runs = [
        measure("ours", options, options.shape, options.steps),
        measure("shipped", options, options.shipped_shape, options.shipped_steps),
    ]
    slow = scaled(runs[1], options.shape, options.steps)
    figures = {
        "shipped_scaled_to_our_work_s": slow,
        "times_faster": round(slow / runs[0].total_s, 2),
        "matmul_gflops_before_after": [before, matmul_gflops(options.threads)],
        "threads": options.threads,
        "tiny": options.tiny,
        "variant": options.variant,
        "date": datetime.now(UTC).date().isoformat(),
    }
    head = "what|dtype|volume|steps|encode s|step s|decode s|total s|peak GB|estimated GB"
    sys.stdout.write(f"|{head}|\n|{'---|' * (head.count('|') + 1)}\n")
    for run in runs:
        size = "x".join(map(str, run.shape))
        row = [run.what, run.dtype, size, run.steps, run.encode_s, run.step_s, run.decode_s, run.total_s]
        sys.stdout.write("|" + "|".join(map(str, [*row, run.peak_gb, run.estimate_gb or ""])) + "|\n")
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(run) | {"total_s": run.total_s} for run in runs]
    options.output.write_text(json.dumps({"runs": rows, **figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

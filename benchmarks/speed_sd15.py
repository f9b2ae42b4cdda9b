"""Speed, memory and agreement of SD-FSMIS at the size of Stable Diffusion 1.5, random weights, on a CPU.

Usage: ``python benchmarks/speed_sd15.py [--slices 12] [--threads 2] [--quick | --cut] [--output F]``, about
six minutes on two idle cores with bf16 units. ``--quick`` takes narrow networks and says nothing of speed.

Three supports and a volume of query slices go through

* the released order of work: the support is encoded again for each of three chunks, queries go one at a time,
  float32, cross-attention computed;
* our path: the support is encoded once and cached, queries go in batches, channels-last, cross-attention
  folded, the autoencoder in slabs, in the precision that our path would choose on this CPU; with the
  autoencoder's decoder and with the light decoder of mask latents in its place (an option of the training).

Peak memory is compared on twice the slices. Each run is a process of its own, so that its peak memory is its
own, and measures the matmul peak before and after.

Masks of bfloat16 and float32 are compared where they are as sure as those of trained networks. Latents hold
what is bright in the query, and a little noise; in bfloat16 also the error that the random UNet makes there,
as a share of the spread. Both decoders' last layers are fitted to such latents, in float32 and in closed
form, on half of the slices; masks are judged on the other half, cut at one half. ``--cut`` is the other
extreme: maps of random weights as they are, cut at the median, where most pixels lie.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from latentseg.backbones.compact import MaskHead
from latentseg.backbones.device import RunOptions, fastest_dtype
from latentseg.backbones.stable_diffusion import Diffusers2D
from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.methods.sdfsmis.condition import ConditionTranslator, DinoFeatures, masked_features
from latentseg.methods.sdfsmis.mask_decoding import mask_images, probabilities
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import Prototypes, enhance, prototypes

SHOTS, CHUNKS, SIZE = 3, 3, 256
Figures = dict[str, Any]
# GFLOP (two per multiply-add) of one slice or shot at 256 pixels.
ENCODE, DECODE, DINO, SUPPORT_PASS, QUERY_PASS, QUERY_PASS_FOLDED = 273.0, 622.0, 46.0, 176.0, 199.0, 193.0
DECODE_LIGHT = 0.4
AGREEING = 8  # slices on which precisions are compared, the last layers fitted on the first half of them
BRIGHT = 0.2  # in [-1, 1], above which a pixel of a query belongs to what is to be drawn
RIDGE = 1e-4  # of the mean square of the features
NOISE = 0.1  # of latents that hold a mask as -1 and 1


@dataclass
class Models:
    """The parts, with random weights."""

    backbone: Diffusers2D
    network: FewShotUNet
    translator: ConditionTranslator
    dino: DinoFeatures
    head: MaskHead


@dataclass
class Clock:
    """Seconds per stage, summed over the calls."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the context closes."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def random_weights(module: nn.Module, *, seed: int, dtype: torch.dtype) -> nn.Module:
    """Materialize a module built on the meta device; the draw is the same for every precision."""
    module = nn.Module.to(module, dtype).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if p.ndim == 1:
            p.fill_(float(name.endswith("weight")))
        else:
            bound = float(np.prod(p.shape[1:])) ** -0.5
            p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=generator))
    return module


def build(dtype: torch.dtype, *, channels_last: bool, slab: int, thin: int = 1) -> Models:
    """SD 1.5, DINOv2-base and the translator; ``thin`` divides the widths, to try this script."""
    options = RunOptions(dtype=dtype, channels_last=channels_last, slab=slab)
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[c // thin for c in (128, 256, 512, 512)],
            layers_per_block=2,
        )
        widths = [32 * max(1, c // thin // 32) for c in (320, 640, 1280, 1280)]
        unet = UNet2DConditionModel(
            block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8, in_channels=8
        )
        translator = ConditionTranslator(768, 768)
        dino = Dinov2Model(Dinov2Config(image_size=224, patch_size=14))
    vae, unet = (random_weights(m, seed=i, dtype=dtype) for i, m in enumerate((vae, unet)))
    translator, dino = (
        random_weights(m, seed=2 + i, dtype=torch.float32) for i, m in enumerate((translator, dino))
    )
    head = random_weights(MaskHead(), seed=4, dtype=torch.float32)
    backbone = Diffusers2D(vae, unet, options=options)
    return Models(backbone, FewShotUNet(unet), translator, DinoFeatures(dino), head)


def scan(slices: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth random images ``(S, 1, 256, 256)`` in [-1, 1] and disks as masks ``(S, 256, 256)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(slices, 1, 16, 16, generator=generator)
    images = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1) * 2 - 1
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centers = torch.randint(80, 176, (slices, 2, 1, 1), generator=generator)
    masks = ((y - centers[:, 0]) ** 2 + (x - centers[:, 1]) ** 2 < 30**2).float()
    return images, masks


def encode_support(models: Models, *, condition_tokens: int) -> tuple[SupportCache, Prototypes]:
    """Latents, condition, keys and values of the supports."""
    images, masks = scan(SHOTS, seed=0)
    latents, mask_latents = models.backbone.encode(images), models.backbone.encode(mask_images(masks))
    features = masked_features(models.dino(images, compat="official"), masks, shots=SHOTS, compat="official")
    token = models.translator(features).expand(1, condition_tokens, -1)
    cache = models.network.encode_support(torch.cat([latents, mask_latents], 1), token, shots=SHOTS)
    return cache, prototypes(latents, masks, compat="official").over_shots(SHOTS)


def released_order(models: Models, queries: Tensor, clock: Clock) -> Tensor:
    """Support again for every chunk, one query at a time.

    Two equal condition tokens give the same output as one, without folding: what the release computes.
    """
    decoded = []
    for chunk in queries.chunk(CHUNKS):
        with clock.stage("support"):
            cache, (fg, bg) = encode_support(models, condition_tokens=2)
        for query in chunk.split(1):
            with clock.stage("encode"):
                z = models.backbone.encode(query)
            with clock.stage("unet"):
                z = models.network.segment(enhance(z, fg, bg, compat="official"), cache)
            with clock.stage("decode"):
                decoded.append(models.backbone.decode(z))
    return torch.cat(decoded)


def our_path(models: Models, queries: Tensor, clock: Clock, *, batch: int = 8, light: bool = False) -> Tensor:
    """Support once, queries in batches, the autoencoder in slabs or, of masks, the light decoder."""
    with clock.stage("support"):
        cache, (fg, bg) = encode_support(models, condition_tokens=1)
    with clock.stage("encode"):
        latents = models.backbone.encode(queries)
    with clock.stage("unet"):
        inputs = enhance(latents, fg, bg, compat="official")
        mask_latents = torch.cat([models.network.segment(x, cache) for x in inputs.split(batch)])
    with clock.stage("decode"):
        return models.head(mask_latents).tanh() if light else models.backbone.decode(mask_latents)


def matmul_gflops(dtype: torch.dtype, *, n: int = 2048) -> float:
    """Best rate of a few square products."""
    a, b = torch.randn(2, n, n).to(dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


RUNS: dict[str, tuple[Callable[..., Tensor], torch.dtype, bool]] = {
    "released fp32": (released_order, torch.float32, False),
    "ours bf16": (our_path, torch.bfloat16, True),
    "ours fp32": (our_path, torch.float32, True),
    "light bf16": (partial(our_path, light=True), torch.bfloat16, True),
    "light fp32": (partial(our_path, light=True), torch.float32, True),
}


def gflop(name: str, slices: int) -> float:
    """Arithmetic of a run."""
    support = SHOTS * (2 * ENCODE + DINO + SUPPORT_PASS)
    if name.startswith("released"):
        return CHUNKS * support + slices * (ENCODE + QUERY_PASS + DECODE)
    decode = DECODE_LIGHT if name.startswith("light") else DECODE
    return support + slices * (ENCODE + QUERY_PASS_FOLDED + decode)


@torch.no_grad()
def child(name: str, *, slices: int, slab: int, thin: int, maps: Path) -> Figures:
    """One run in this process; writes the decoded maps ``(S, 256, 256)`` and returns its figures."""
    run, dtype, channels_last = RUNS[name]
    models = build(dtype, channels_last=channels_last, slab=slab, thin=thin)
    queries, _ = scan(slices, seed=1)
    models.backbone.decode(models.backbone.encode(queries[:1]))  # kernels are prepared on the first call
    before, clock, start = matmul_gflops(dtype), Clock(), time.perf_counter()
    decoded = run(models, queries, clock)
    seconds = time.perf_counter() - start
    after = matmul_gflops(dtype)
    np.save(maps, probabilities(decoded).numpy())
    rate = gflop(name, slices) / seconds if thin == 1 else 0.0
    return {
        "run": name,
        "slices": slices,
        "seconds": seconds,
        "seconds_per_slice": seconds / slices,
        "stages_seconds": clock.seconds,
        "matmul_gflops_before": before,
        "matmul_gflops_after": after,
        "gflops": rate,
        "fraction_of_matmul_peak": rate / max(before, after),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


class LastLayers:
    """Last layers that are fitted on the first half of the slices, or read from a file of such.

    Args:
        path: The file.
        dtype: In which they are computed.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self.known = dict(np.load(path)) if path.exists() else {}

    def __call__(self, name: str, features: Tensor, target: Tensor) -> Tensor:
        """What layer ``name`` makes ``(S, K, h, w)`` of features ``(S, C, h, w)``."""
        if name not in self.known:
            step = max(1, features.shape[-1] // 128)
            x, y = (
                t[: len(t) // 2, :, ::step, ::step].movedim(1, -1).flatten(0, 2) for t in (features, target)
            )
            x = nn.functional.pad(x.double(), (0, 1), value=1.0)
            square = x.T @ x
            ridge = RIDGE * square.diagonal().mean() * torch.eye(x.shape[1])
            self.known[name] = torch.linalg.solve(square + ridge, x.T @ y.double()).float().numpy()
            np.savez(self.path, **self.known)
        weight = torch.from_numpy(self.known[name])
        kernel, bias = weight[:-1].T[:, :, None, None], weight[-1]
        return nn.functional.conv2d(
            features.to(self.dtype), kernel.to(self.dtype), bias.to(self.dtype)
        ).float()

    def error(self, name: str, values: Tensor) -> Tensor:
        """How values differ from those of the file, as a share of their spread; 0 for the first."""
        if name not in self.known:
            self.known[name] = values.numpy()
        first = torch.from_numpy(self.known[name])
        return (values - first) / first.std()


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the context is open."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    yield seen
    handle.remove()


@torch.no_grad()
def drawn(dtype: torch.dtype, layers: Path, *, slices: int, slab: int, thin: int) -> dict[str, np.ndarray]:
    """What both decoders draw ``(S, 256, 256)`` with fitted last layers, and the truth."""
    models, layer = build(dtype, channels_last=True, slab=slab, thin=thin), LastLayers(layers, dtype)
    queries, _ = scan(slices, seed=1)
    bright = (queries > BRIGHT).float()
    cache, (fg, bg) = encode_support(models, condition_tokens=1)
    enhanced = enhance(models.backbone.encode(queries), fg, bg, compat="official")
    predicted = torch.cat([models.network.segment(one, cache) for one in enhanced.split(slab)])
    latents = 2 * nn.functional.pixel_unshuffle(nn.functional.avg_pool2d(bright, 4), 2) - 1
    noise = NOISE * torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    latents = latents + noise + layer.error("unet", predicted) * latents.std()
    hidden = nn.Sequential(*list(models.head)[:-2])(latents)
    cells = layer("light", hidden, nn.functional.pixel_unshuffle(bright, 8))
    with inputs_of(models.backbone.vae.decoder.conv_out) as seen:
        models.backbone.decode(latents)
    whole = layer("autoencoder", torch.cat(seen), bright)
    light = nn.functional.pixel_shuffle(cells, 8)
    return {"autoencoder": whole[:, 0].numpy(), "light": light[:, 0].numpy(), "truth": bright[:, 0].numpy()}


def agreement(full: dict[str, np.ndarray], half: dict[str, np.ndarray]) -> Figures:
    """How masks of both precisions agree on the slices that no layer was fitted on."""
    rest = slice(len(full["truth"]) // 2, None)
    found = {}
    for name in ("autoencoder", "light"):
        a, b, truth = full[name][rest], half[name][rest], full["truth"][rest] > 0.5
        found[name] = {
            "dice_bf16_fp32": overlap(a > 0.5, b > 0.5),
            "dice_fp32_truth": overlap(a > 0.5, truth),
            "share_near_the_cut": float((np.abs(a - 0.5) < 0.1).mean()),
            "error_of_the_margin": float(np.sqrt(((b - a) ** 2).mean()) / np.abs(a - 0.5).mean()),
        }
    return found


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    """Dice of two masks."""
    return float(2 * (p & q).sum() / max(1, p.sum() + q.sum()))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two maps, each slice cut at the median of the first map: random weights draw no organ."""
    cut = np.median(a, axis=(1, 2), keepdims=True)
    return overlap(a > cut, b > cut)


def cut_figures(full: np.ndarray, half: np.ndarray) -> Figures:
    """How much of the disagreement of two maps ``(S, 256, 256)`` is where they are cut.

    The error of a map is measured in units of the spread of the map. A map of disks with edges two pixels
    wide, which is what a trained network would draw, is then disturbed by this same error in units of its own
    spread, and both are cut by the released rule, a quarter of the largest value.
    """
    from scipy.ndimage import gaussian_filter

    error, spread = half - full, full.std(axis=(1, 2), keepdims=True)
    cut = np.median(full, axis=(1, 2), keepdims=True)
    far = np.abs(full - cut) > 2 * np.sqrt((error**2).mean())
    p, q = (full > cut)[far], (half > cut)[far]
    _, masks = scan(len(full), seed=2)
    disks = np.stack([gaussian_filter(mask.numpy().astype(np.float32), 1.0) for mask in masks])
    disturbed = disks + error / spread * disks.std(axis=(1, 2), keepdims=True)
    return {
        "error_of_the_spread": float(np.sqrt(((error / spread) ** 2).mean())),
        "dice_at_the_median": dice(full, half),
        "dice_away_from_the_cut": overlap(p, q),
        "share_away_from_the_cut": float(far.mean()),
        "dice_of_disks": overlap(disks > 0.25 * disks.max(), disturbed > 0.25 * disturbed.max()),
    }


def measure_cut(args: argparse.Namespace) -> None:
    """Our path in both precisions, and what their disagreement is made of."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.npy" for name in ("ours fp32", "ours bf16")}
        runs = [spawn(name, args.slices, args, file) for name, file in files.items()]
        full, half = (np.load(file) for file in files.values())
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "slices": args.slices,
        "cut": cut_figures(full, half),
        "runs": runs,
    }
    print(json.dumps(content["cut"], indent=2))
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def child_of(args: argparse.Namespace, *words: str) -> str:
    """Run this file in a fresh process; returns the last line that it says."""
    command = [sys.executable, __file__, "--threads", str(args.threads), "--slab", str(args.slab)]
    command += ["--thin", str(args.thin), *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")  # noqa: S603 - this file
    return (done.stdout.splitlines() or [""])[-1]


def spawn(name: str, slices: int, args: argparse.Namespace, maps: Path) -> Figures:
    """Run one configuration in a fresh process."""
    said = child_of(args, "--run", name, "--slices", str(slices), "--maps", str(maps))
    figures: Figures = json.loads(said)
    print(
        f"{name:14} {slices:4} slices {figures['seconds']:8.1f} s {figures['seconds_per_slice']:7.2f} s/slice"
        f" {100 * figures['fraction_of_matmul_peak']:5.0f} % of matmul peak"
        f" ({figures['matmul_gflops_before']:.0f} before, {figures['matmul_gflops_after']:.0f} GFLOP/s after)"
        f" {figures['peak_memory_gb']:5.2f} GB",
        flush=True,
    )
    return figures


def parent(args: argparse.Namespace) -> None:
    """All runs, the comparison, the JSON file."""
    ours = "ours bf16" if fastest_dtype() == torch.bfloat16 else "ours fp32"
    runs = [(name, args.slices) for name in ("released fp32", ours, ours.replace("ours", "light"))]
    if not args.quick:
        runs.append((ours, 2 * args.slices))
    print(
        f"torch {torch.__version__}, {args.threads} threads, {fastest_dtype()} is the fastest precision here"
    )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npy" for i in range(len(runs))]
        figures = [spawn(*run, args, file) for run, file in zip(runs, files, strict=True)]
        maps = [np.load(file) for file in files]
        both = [Path(folder) / f"{name}.npz" for name in ("fp32", "bf16")]
        for file in both:
            child_of(args, "--draw", file.stem, "--maps", str(file))
        masks = agreement(*(dict(np.load(file)) for file in both))
    summary = summarize(figures, maps) | {"masks": masks}
    print(json.dumps(summary, indent=2))
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "options": {"threads": args.threads, "slab": args.slab, "shots": SHOTS, "thin": args.thin},
        "summary": summary,
        "runs": figures,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def summarize(figures: list[Figures], maps: list[np.ndarray]) -> Figures:
    """Ratios of the runs: released, ours, the light decoder, perhaps twice as much."""
    released, ours, light, *double = figures
    memory = double[0]["peak_memory_gb"] / ours["peak_memory_gb"] if double else None
    return {
        "our_precision": ours["run"],
        "speedup": released["seconds"] / ours["seconds"],
        "speedup_light_decoder": released["seconds"] / light["seconds"],
        "dice_released_ours_random_maps": dice(maps[0], maps[1]),
        "peak_memory_ratio_twice_the_slices": memory,
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--slab", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="narrow networks, few slices: a trial")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "speed_sd15.json")
    parser.add_argument(
        "--thin", type=int, choices=(1, 2, 4), default=1, help="divide the widths, for a trial"
    )
    parser.add_argument("--cut", action="store_true", help="only the agreement of bf16 and fp32")
    parser.add_argument("--draw", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--maps", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.thin, args.slices = 4, min(args.slices, 3)
    torch.set_num_threads(args.threads)
    if args.run:
        figures = child(args.run, slices=args.slices, slab=args.slab, thin=args.thin, maps=args.maps)
        print(json.dumps(figures))
    elif args.draw:
        dtype = torch.float32 if args.draw == "fp32" else torch.bfloat16
        layers = args.maps.with_name("layers.npz")
        np.savez(args.maps, **drawn(dtype, layers, slices=AGREEING, slab=args.slab, thin=args.thin))
    elif args.cut:
        measure_cut(args)
    else:
        parent(args)


if __name__ == "__main__":
    main()

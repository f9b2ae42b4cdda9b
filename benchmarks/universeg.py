"""A network in the manner of UniverSeg (Butoi et al., ICCV 2023), trained on our own episodes.

Usage: ``python benchmarks/universeg.py CONFIG --pack FOLDER --out FOLDER --minutes N`` trains, and goes on
with a training that was stopped; ``python benchmarks/accuracy_fewshot.py --universeg FOLDER`` evaluates it
beside our methods. CONFIG is that of ``latentseg train fewshot``; its episodes and its seed are used, so that
the episodes are the same in the same order, and ``--minutes`` gives it the same time.

Written from the paper's description, small: an encoder and a decoder of cross blocks. A cross block
convolves the query's features joined with those of each support, ``z_i = A([u, v_i])``; the mean of the
``z_i`` goes on as the query, ``u' = C(mean_i z_i)``, each ``z_i`` as its support, ``v'_i = B(z_i)``. Nothing
is pretrained and nothing is frozen.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from latentseg.backbones.identity import fingerprint
from latentseg.backbones.weights import read_weights, write_weights
from latentseg.evaluation.slices import SupportSlices
from latentseg.training.config import read_config
from latentseg.training.fewshot.episodes import EpisodeBatch, Episodes
from latentseg.training.fewshot.losses import entropy, soft_dice
from latentseg.training.fewshot.sdfsmis import FewShotOptions
from latentseg.training.loop import Loop, Task
from latentseg.training.pack import Pack

FILE, PLAN = "universeg.safetensors", "plan.json"
SIZE = 128  # pixels, as in the paper
LEVELS = 4
WIDTH = 48


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution and its nonlinearity."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(0.01))


class CrossBlock(nn.Module):
    """Query ``(B, C, h, w)`` and supports ``(B, n, C', h, w)`` see each other."""

    def __init__(self, query: int, support: int, outputs: int) -> None:
        super().__init__()
        self.cross = layer(query + support, outputs)
        self.to_query, self.to_support = layer(outputs, outputs), layer(outputs, outputs)

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New features of both."""
        shots = v.shape[1]
        pairs = torch.cat([u[:, None].expand(-1, shots, -1, -1, -1), v], 2)
        z = self.cross(pairs.flatten(0, 1))
        return self.to_query(z.unflatten(0, (-1, shots)).mean(1)), self.to_support(z).unflatten(
            0, (-1, shots)
        )


class UniverSeg(nn.Module):
    """Cross blocks on ``LEVELS`` grids down and up again."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            CrossBlock(width if i else 1, width if i else 2, width) for i in range(LEVELS)
        )
        self.up = nn.ModuleList(CrossBlock(2 * width, 2 * width, width) for _ in range(LEVELS - 1))
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Logits ``(B, H, W)``.

        Args:
            query: ``(B, 1, H, W)`` in [-1, 1].
            images: Of the supports, ``(B, n, 1, H, W)``.
            masks: Of the supports, ``(B, n, H, W)``.
        """
        size = query.shape[-2:]
        u = small(query)
        v = torch.cat([small(images.flatten(0, 1)), small(masks.flatten(0, 1)[:, None])], 1)
        v = v.unflatten(0, masks.shape[:2])
        passed: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.down):
            if i:
                u, v = F.max_pool2d(u, 2), F.max_pool2d(v.flatten(0, 1), 2).unflatten(0, v.shape[:2])
            u, v = block(u, v)
            passed.append((u, v))
        for block, (u_before, v_before) in zip(self.up, reversed(passed[:-1]), strict=True):
            v = torch.cat([doubled(v.flatten(0, 1)).unflatten(0, v.shape[:2]), v_before], 2)
            u, v = block(torch.cat([doubled(u), u_before], 1), v)
        return F.interpolate(self.out(u), size=size, mode="bilinear", align_corners=False)[:, 0]


def small(x: Tensor) -> Tensor:
    """Images ``(N, 1, H, W)`` on the network's grid."""
    return F.adaptive_avg_pool2d(x.float(), SIZE)


def doubled(x: Tensor) -> Tensor:
    """Features on a grid twice as fine."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class UniverSegTask(Task[UniverSeg]):
    """What the loop trains: one support per query, cross-entropy and Dice as for the few-shot network."""

    def __init__(self, options: FewShotOptions, packed: Pack) -> None:
        torch.manual_seed(options.loop.seed)
        self.options, self.episodes, self.model = options, Episodes(packed, options.episodes), UniverSeg()

    def images(self, batch: EpisodeBatch) -> int:
        """Queries, each with one target."""
        return len(batch.query_masks)

    def batch(self, rng: np.random.Generator, progress: float) -> EpisodeBatch:
        """Draw one batch of episodes."""
        return self.episodes.draw(rng, ease=max(0.0, 1 - progress / self.options.easy))

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy and Dice, and the Dice of targets that are there."""
        targets = len(batch.support_masks) // len(batch.support_images)
        queries = len(batch.query_images) // len(batch.support_images)
        asked = batch.query_images.unflatten(0, (-1, 1, queries))
        asked = asked.expand(-1, targets, -1, -1, -1, -1).flatten(0, 2)
        images = batch.support_images.repeat_interleave(targets * queries, 0)[:, None]
        masks = batch.support_masks.repeat_interleave(queries, 0)[:, None]
        logits, truth = self.model(asked, images, masks), batch.query_masks
        present = (truth.sum((1, 2)) >= 20).float()
        overlap = soft_dice(logits.sigmoid(), truth)
        loss = (
            2 * entropy(logits, truth, foreground=self.options.foreground) + present * (1 - overlap)
        ).mean()
        hard = soft_dice((logits.detach() > 0).float(), truth)
        return loss, {"dice": float((hard * present).sum() / present.sum().clamp(min=1))}

    def export(self, model: UniverSeg, folder: Path) -> None:
        """Write the weights in half precision."""
        write_weights(folder / FILE, dict(model.state_dict()))


class UniverSegMethod:
    """The trained network as a method of the protocols; all slices of the support at once.

    Args:
        folder: Of the training.
        batch: Query slices at a time.
    """

    name = "UniverSeg-style, same episodes"

    def __init__(self, folder: Path, *, batch: int = 8) -> None:
        state = read_weights(folder / FILE)
        self.model, self.batch = UniverSeg(len(state["out.weight"][0])), batch
        self.model.load_state_dict(state)
        self.model.eval()
        self.fingerprint = fingerprint([folder / FILE])

    @torch.no_grad()
    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability ``(S, H, W)`` of slices ``(S, H, W)``."""
        images = torch.from_numpy(np.ascontiguousarray(support.images, np.float32))[None, :, None]
        masks = torch.from_numpy(support.masks)[None].float()
        found = []
        for slab in torch.from_numpy(np.ascontiguousarray(query_slices, np.float32))[:, None].split(
            self.batch
        ):
            shown = (t.expand(len(slab), *t.shape[1:]) for t in (images, masks))
            found.append(self.model(slab, *shown).sigmoid())
        return np.asarray(torch.cat(found).numpy())


def planned(task: UniverSegTask, minutes: float, folder: Path, *, trial: int = 3) -> int:
    """Steps that fit into the time, measured once on a copy of the network and kept in the folder."""
    path = folder / PLAN
    if not path.exists():
        model, task.model = task.model, copy.deepcopy(task.model)
        started = time.monotonic()
        for step in range(trial):
            task.loss(task.batch(np.random.default_rng(step), 0.5))[0].backward()
        steps = max(1, int(60 * minutes * trial / (time.monotonic() - started)))
        task.model = model
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"minutes": minutes, "steps": steps}) + "\n", encoding="utf-8")
    return int(json.loads(path.read_text(encoding="utf-8"))["steps"])


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    words = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = read_config(words.config, FewShotOptions)
    task = UniverSegTask(options, Pack(words.pack))
    loop = options.loop.model_copy(update={"steps": planned(task, words.minutes, words.out)})
    Loop(task, loop, words.out).run(resume=True)


if __name__ == "__main__":
    main()

"""A training loop that survives: EMA, checkpoints by time, a JSONL log, a loss plot, the same data on resume.

The batch of step ``i`` is a function of (seed, i) alone, so a run that was killed and resumed sees the
batches that an undisturbed run would have seen.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from latentseg.backbones.weights import reason
from latentseg.errors import ModelError
from latentseg.imaging.files import written_whole
from latentseg.training.extras import require

Model = TypeVar("Model", bound=nn.Module)
log = logging.getLogger(__name__)


class LoopOptions(BaseModel):
    """How long and how fast to train.

    Attributes:
        steps: Number of optimiser steps, the length of the learning-rate schedule.
        learning_rate: Peak rate of AdamW, after ``warmup`` steps; decays to a twentieth along a cosine.
        ema: Decay of the exponential moving average that is exported.
        checkpoint_minutes: Wall-clock minutes between checkpoints.
        threads: CPU threads, 0 for torch's choice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = Field(0.999, ge=0, lt=1)
    checkpoint_minutes: float = 3.0
    log_every: int = 20
    seed: int = 0
    threads: int = 0


class Task(Protocol[Model]):
    """What is trained: a model, its batches and its loss."""

    @property
    def model(self) -> Model:
        """The model; parameters that require no gradient stay as they are."""
        ...

    def batch(self, rng: np.random.Generator, progress: float) -> Any:
        """Draw one batch; ``progress`` is the share of the schedule that is done, in [0, 1)."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of the current model, and figures for the log."""
        ...

    def export(self, model: Model, folder: Path) -> None:
        """Write the weights that users load, from the averaged model."""
        ...


def rate_at(step: int, options: LoopOptions) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to 5 %."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return options.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class Loop(Generic[Model]):
    """One training run in one folder (``checkpoint.pt``, ``log.jsonl``, ``loss.png``, exported weights)."""

    def __init__(self, task: Task[Model], options: LoopOptions, folder: Path) -> None:
        self.task, self.options, self.folder = task, options, folder
        self.average: Model = copy.deepcopy(task.model).requires_grad_(False)
        trained = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.step = 0
        self.seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / "checkpoint.pt"

    def run(self, *, resume: bool = False) -> None:
        """Train until the last step; with ``resume`` go on from the folder's checkpoint where there is one.

        Raises:
            ModelError: When the folder holds a run and ``resume`` is not set, or its checkpoint does not fit.
            UsageError: The package matplotlib is not installed.
        """
        require("matplotlib", purpose="the loss plot of a training")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._restore(resume)
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        started = saved = time.monotonic()
        before = self.seconds
        self.task.model.train()
        while self.step < self.options.steps:
            figures = self._train_step()
            now = time.monotonic()
            self.seconds = before + now - started
            if self.step % self.options.log_every == 0:
                self._write_log(figures)
            if now - saved > 60 * self.options.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
        self.save()

    def _train_step(self) -> dict[str, float]:
        options = self.options
        rng = np.random.default_rng((options.seed, self.step))
        torch.manual_seed(hash((options.seed, self.step)) % 2**31)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, options)
        loss, figures = self.task.loss(self.task.batch(rng, self.step / options.steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), options.clip)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        self.step += 1
        self._average()
        return {"loss": float(loss.detach()), "gradient_norm": float(norm), **figures}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        for mean, new in zip(
            self.average.state_dict().values(), self.task.model.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - decay)
            else:
                mean.copy_(new)

    def _write_log(self, figures: dict[str, float]) -> None:
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            **{k: round(v, 5) for k, v in figures.items()},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        log.info("%s", row)

    def save(self) -> None:
        """Write the checkpoint (whole or not at all), the exported weights and the loss plot."""
        state = {
            "model": self.task.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with written_whole(self.checkpoint) as temporary:
            torch.save(state, temporary)
        self.task.export(self.average, self.folder)
        plot_log(self.folder / "log.jsonl")

    def _restore(self, resume: bool) -> None:
        if not resume:
            raise ModelError(
                "a training run is there already",
                where=str(self.folder),
                fix="pass --resume or another folder",
            )
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.task.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except Exception as error:  # zip, pickle, key and shape errors alike
            raise ModelError(
                f"the checkpoint does not fit this configuration or is damaged ({reason(error)})",
                where=str(self.checkpoint),
                fix="start a new run in another folder",
            ) from error


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a JSONL log in order of steps; of rows written twice around a kill, the later ones.

    A line that a kill cut short is left out.
    """
    rows: dict[float, dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows[row["step"]] = row
        except (ValueError, KeyError, TypeError):
            log.debug("left out a damaged line of %s", path)
    return [row for _, row in sorted(rows.items())]


def plot_log(path: Path, *, window: int = 15) -> None:
    """Draw every figure of a log over the steps, raw and as a running mean, to ``loss.png`` beside it."""
    rows = read_log(path)
    if len(rows) < 2:
        return
    from matplotlib.figure import Figure

    names = [name for name in rows[-1] if name not in ("step", "seconds")]
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="tight")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        if points:
            _curve(axis, np.array(points), window)
    with written_whole(path.with_name("loss.png")) as temporary:
        figure.savefig(temporary, dpi=110)


def _curve(axis: Any, points: NDArray[np.float64], window: int) -> None:
    """Draw points ``(n, 2)`` and their running mean; a few outliers may leave the frame."""
    steps, values = points.T
    width = min(window, len(values))
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    axis.plot(steps, values, color="0.8", linewidth=0.8)
    axis.plot(steps[width - 1 :], mean, color="tab:blue")
    axis.set_ylim(0, max(float(np.percentile(values, 97)), 1e-6) * 1.1)

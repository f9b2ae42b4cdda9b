"""The training loop: averaged weights (EMA), checkpoints, a log, a loss plot, and exact resumption.

A step has one or more batches, called pieces. Piece ``k`` of step ``i`` depends on (seed, i, k) alone. A run
that was killed and resumed therefore sees the same batches as an uninterrupted run. Several processes
(``accelerate launch``) share the pieces of a step and sum their gradients, so they see the same batches as
well.
"""

from __future__ import annotations

import atexit
import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from latentseg.backbones.device import fastest_dtype
from latentseg.backbones.weights import reason
from latentseg.errors import InputError, ModelError
from latentseg.imaging.files import remove_leftovers, written_whole
from latentseg.training.extras import require
from latentseg.training.interruptions import stop_requests
from latentseg.training.log import LOG_NAME, means_of, plot_log, write_row
from latentseg.training.optimizer import Group, Kind, Schedule, make_optimizer, rate_factor, set_rate

Model = TypeVar("Model", bound=nn.Module)
STUCK = 20  # steps in a row with NaN or infinite gradients after which a run is given up


class LoopOptions(BaseModel, extra="forbid", frozen=True):
    """Length, speed and bookkeeping of a training.

    Attributes:
        steps: Number of optimizer steps, the length of the learning-rate schedule.
        learning_rate: Peak rate of AdamW, after ``warmup`` steps.
        schedule: How the rate decays, see :func:`~latentseg.training.optimizer.rate_factor`.
        optimizer: AdamW with 32-bit moments, or with 8-bit ones (package bitsandbytes).
        ema: Decay of the exponential moving average that is exported; at 0 no copy is kept, and the trained
            weights themselves are exported.
        checkpoint_minutes: Wall-clock minutes between checkpoints.
        keep_optimizer: Whether checkpoints hold the optimizer's moments, two thirds of their size; without
            them a resumed run starts its moments anew.
        exports: Whether every checkpoint comes with the weights for users.
        pieces: Batches per step, whose gradients are averaged; several processes share them.
        precision: ``auto`` takes bf16 where the hardware has units for it; fp16 scales the loss.
        tf32: Let a GPU multiply float32 matrices in TF32.
        prefetch: Draw the next batches while a step runs. By default only with a GPU; on a CPU both would
            compete for the same cores.
        workers: Threads that draw batches ahead.
        threads: CPU threads, 0 for torch's choice.
    """

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = 100
    schedule: Schedule = "cosine"
    optimizer: Kind = "adamw"
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = Field(0.999, ge=0, lt=1)
    checkpoint_minutes: float = 3.0
    keep_optimizer: bool = True
    exports: bool = True
    log_every: int = 20
    seed: int = 0
    pieces: int = Field(1, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tf32: bool = False
    prefetch: bool | None = None
    workers: int = Field(1, gt=0)
    threads: int = 0


class Task(ABC, Generic[Model]):
    """What is trained: a model, its batches and its loss.

    Attributes:
        model: The model; parameters that require no gradient stay as they are.
        frozen_networks: What moves to the device of the model with it.
        counted: The field of a batch with one entry per image, for the throughput in the log; a batch that is
            one tensor is counted itself.
    """

    model: Model
    frozen_networks: Sequence[Any] = ()
    counted = "masks"

    def images(self, batch: Any) -> int:
        """How many images a batch holds."""
        return len(batch if isinstance(batch, Tensor) else getattr(batch, self.counted))

    def to(self, device: torch.device) -> None:
        """Move the model, and what is frozen beside it, to a device."""
        for network in (self.model, *self.frozen_networks):
            network.to(device)

    def groups(self) -> list[Group]:
        """Every parameter that is trained, in groups that may have different learning rates."""
        return [Group([p for p in self.model.parameters() if p.requires_grad])]

    @abstractmethod
    def batch(self, rng: np.random.Generator, progress: float) -> Any:
        """Draw one batch on the CPU; ``progress`` is the share of the schedule that is done, in [0, 1)."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of the current model for a batch on the model's device, and figures for the log."""

    @abstractmethod
    def export(self, model: Model, folder: Path) -> None:
        """Write the weights that users load, from the averaged model."""


def rate_at(step: int, options: LoopOptions) -> float:
    """Learning rate of a step."""
    return options.learning_rate * rate_factor(
        step, steps=options.steps, warmup=options.warmup, schedule=options.schedule
    )


class Loop(Generic[Model]):
    """One training run in one folder (``checkpoint.pt``, ``log.jsonl``, ``loss.png``, exported weights).

    Raises:
        UsageError: The packages of the extra ``train`` are not installed.
    """

    def __init__(self, task: Task[Model], options: LoopOptions, folder: Path) -> None:
        require("accelerate", purpose="a training")
        require("matplotlib", purpose="the loss plot of a training")
        from accelerate import PartialState

        self.task, self.options, self.folder = task, options, folder
        self.processes = PartialState(cpu=not torch.cuda.is_available())
        # A group that is still open when the interpreter ends can abort its process (pytorch/pytorch#179291).
        atexit.register(self.processes.destroy_process_group)
        task.to(self.processes.device)
        self.average: Model = copy.deepcopy(task.model).requires_grad_(False) if options.ema else task.model
        self.trained = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(
            options.optimizer,
            groups=task.groups(),
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=options.precision == "fp16")
        self.step = 0
        self.seconds = 0.0
        self.figures: list[dict[str, float]] = []
        self.skipped = 0

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / "checkpoint.pt"

    def run(self, *, resume: bool = False) -> None:
        """Train until the last step; with ``resume`` go on from the folder's checkpoint where there is one.

        Ctrl-C and SIGTERM end the run after the step that is being taken, with a checkpoint.

        Raises:
            ModelError: When the folder holds a run and ``resume`` is not set, or its checkpoint does not fit.
            KeyboardInterrupt: The run was stopped.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._restore(resume)
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        if self.options.tf32:
            torch.set_float32_matmul_precision("high")
        before = self.seconds
        started = saved = time.monotonic()
        self.task.model.train()
        with stop_requests() as stop, self._batches() as batches:
            while self.step < self.options.steps and not self._any_process(stop):
                self.figures.append(self._train_step(next(batches)))
                now = time.monotonic()
                self.seconds = before + now - started
                if self.step % self.options.log_every == 0:
                    self._write_log()
                if now - saved > 60 * self.options.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self.step < self.options.steps:
            raise KeyboardInterrupt

    @contextmanager
    def _batches(self) -> Iterator[Iterator[list[tuple[int, Any]]]]:
        """This process's pieces of each step from the next one on, with their numbers."""
        workers = self.options.workers
        mine = range(self.processes.process_index, self.options.pieces, self.processes.num_processes)

        def draw(step: int) -> list[tuple[int, Any]]:
            seeds = ((k, np.random.default_rng((self.options.seed, step, k))) for k in mine)
            return [(k, self.task.batch(rng, step / self.options.steps)) for k, rng in seeds]

        def in_turn() -> Iterator[list[tuple[int, Any]]]:
            for step in range(self.step, self.options.steps):
                yield draw(step)

        def ahead(pool: ThreadPoolExecutor) -> Iterator[list[tuple[int, Any]]]:
            coming: deque[Future[list[tuple[int, Any]]]] = deque()
            for step in range(self.step, self.options.steps + workers):
                if step < self.options.steps:
                    coming.append(pool.submit(draw, step))
                if len(coming) > workers or step >= self.options.steps:
                    yield coming.popleft().result()

        beside_gpu = self.processes.device.type != "cpu"
        prefetch = beside_gpu if self.options.prefetch is None else self.options.prefetch
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
            yield ahead(pool) if prefetch else in_turn()

    def _train_step(self, batches: list[tuple[int, Any]]) -> dict[str, float]:
        """One optimizer step; returns the means of its figures."""
        from accelerate.utils import send_to_device

        options, device = self.options, self.processes.device
        set_rate(self.optimizer, rate_at(self.step, options))
        self.optimizer.zero_grad(set_to_none=True)
        rows: list[dict[str, float]] = []
        started = time.monotonic()
        for piece, batch in batches:
            torch.manual_seed(hash((options.seed, self.step, piece)) % 2**31)
            with torch.autocast(device.type, self._dtype(), enabled=self._dtype() != torch.float32):
                loss, figures = self.task.loss(send_to_device(batch, device))
            self.scaler.scale(loss / options.pieces).backward()
            rows.append({"loss": float(loss.detach()), **figures, "images": self.task.images(batch)})
        if self.processes.num_processes > 1:
            self._sum_over_processes()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, options.clip)
        self._check(norm)
        if not self.skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._average()
        figures = self._mean_over_processes(rows)
        images_per_s = figures.pop("images") * options.pieces / (time.monotonic() - started)
        return figures | {"gradient_norm": float(norm), "images_per_s": images_per_s}

    def _check(self, norm: Tensor) -> None:
        """Count the steps in a row that are skipped, as their gradients are no numbers.

        Raises:
            ModelError: Nothing is being learned.
        """
        self.skipped = 0 if bool(torch.isfinite(norm)) else self.skipped + 1
        if self.skipped >= min(STUCK, self.options.steps):
            raise ModelError(
                f"the gradients of the last {self.skipped} steps are no numbers, nothing is learned",
                where=str(self.folder),
                fix="lower loop.learning_rate, or set loop.precision to fp32",
            )

    def _dtype(self) -> torch.dtype:
        """What the forward pass computes in."""
        if self.options.precision == "auto":
            return fastest_dtype(str(self.processes.device))
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.options.precision]

    def _sum_over_processes(self) -> None:
        """Sum gradients, and average what the model keeps running, over all processes."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.trained]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = flat.split([p.numel() for p in self.trained])
        for parameter, part in zip(self.trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for kept in self.task.model.buffers():
            if kept.is_floating_point():
                torch.distributed.all_reduce(kept)
                kept.div_(self.processes.num_processes)

    def _any_process(self, stop: list[int]) -> bool:
        """Whether a process was asked to stop, so that all of them stop after the same step."""
        asked = torch.tensor(len(stop), device=self.processes.device)
        if self.processes.num_processes > 1:
            torch.distributed.all_reduce(asked)
        return bool(asked)

    def _mean_over_processes(self, rows: list[dict[str, float]]) -> dict[str, float]:
        """Means of the figures of all pieces of a step."""
        from accelerate.utils import gather_object

        everywhere: list[dict[str, float]] = gather_object(rows)
        return means_of(everywhere)

    @torch.no_grad()
    def _average(self) -> None:
        if self.average is self.task.model:
            return
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        for mean, new in zip(
            self.average.state_dict().values(), self.task.model.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - decay)
            else:
                mean.copy_(new)

    def _write_log(self) -> None:
        """Log the means of the figures since the last row."""
        if self.processes.is_main_process:
            means = means_of(self.figures)
            write_row(self.folder, {"step": self.step, "seconds": round(self.seconds, 1), **means})
        self.figures.clear()

    def save(self) -> None:
        """Write the checkpoint (whole or not at all), the exported weights and the loss plot."""
        if not self.processes.is_main_process:
            return
        state = {
            "model": self.task.model.state_dict(),
            "average": None if self.average is self.task.model else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.options.keep_optimizer else None,
            "step": self.step,
            "seconds": self.seconds,
        }
        remove_leftovers(self.checkpoint)
        with written_whole(self.checkpoint) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # what a full disk is to the library
                what = f"cannot write the checkpoint ({reason(error)}); the one before is kept"
                raise InputError(what, where=str(self.checkpoint), fix="make room, then resume") from error
        if self.options.exports:
            with unchanged(self.task.model):
                self.task.export(self.average, self.folder)
        plot_log(self.folder / LOG_NAME)

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
            if self.average is not self.task.model:
                self.average.load_state_dict(state["average"])
            if state["optimizer"] is not None:
                self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except Exception as error:  # zip, pickle, key and shape errors alike
            raise ModelError(
                f"the checkpoint does not fit this configuration or is damaged ({reason(error)})",
                where=str(self.checkpoint),
                fix="start a new run in another folder",
            ) from error


def trained(task: Task[Model], options: LoopOptions, folder: Path, *, resume: bool) -> Model:
    """Run a training to its end, or on from its folder; returns the model with the averaged weights.

    Raises:
        ModelError: The folder holds a run and ``resume`` is not set, or its checkpoint does not fit.
        KeyboardInterrupt: The run was stopped, with a checkpoint.
    """
    loop = Loop(task, options, folder)
    loop.run(resume=resume)
    task.model.load_state_dict(loop.average.state_dict())
    return task.model.eval()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give a model its present weights back: an export may write the average through the model itself."""
    weights = copy.deepcopy(model.state_dict())
    yield
    model.load_state_dict(weights)

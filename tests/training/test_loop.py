"""The loop: what a kill, a damaged file and a bad step do to a run."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentseg.errors import ModelError, UsageError
from latentseg.training import loop as loop_module
from latentseg.training.interruptions import stop_requests
from latentseg.training.log import plot_log, read_log
from latentseg.training.loop import Loop, LoopOptions, Task, rate_at

pytest.importorskip("matplotlib", reason="needs the extra `train`")
OPTIONS = LoopOptions(steps=12, learning_rate=0.05, warmup=3, ema=0.9, log_every=1, checkpoint_minutes=60)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here; it has a test of its own."""
    monkeypatch.setattr(loop_module, "plot_log", lambda log: log.with_name("loss.png").touch())


class Killed(BaseException):
    """Stands for a signal."""


class LineTask(Task[nn.Sequential]):
    """Fit a line; dropout makes every step depend on torch's own seed, the norm keeps running statistics."""

    def __init__(self, width: int = 4) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 1)
        )
        self.batches: dict[int, Tensor] = {}
        self.progress: list[float] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.bad_steps: set[int] = set()

    def batch(self, rng: np.random.Generator, progress: float) -> Tensor:
        step = round(progress * OPTIONS.steps)
        self.before.get(step, lambda: None)()
        self.progress.append(progress)
        self.batches[step] = torch.tensor(rng.normal(size=(8, 3)), dtype=torch.float32)
        return self.batches[step]

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        error = (self.model(batch)[:, 0] - batch.sum(1)).square().mean()
        if max(self.batches) in self.bad_steps:
            error = error * math.nan
        return error, {"root": float(error.detach()) ** 0.5}

    def export(self, model: nn.Sequential, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "weights.pt")


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def killed_run(folder: Path, *, saved_at: int = 5, killed_at: int = 8) -> LineTask:
    """A run that saves at one step and dies at a later one."""
    task = LineTask()
    loop = Loop(task, OPTIONS, folder)

    def die() -> None:
        raise Killed

    task.before = {saved_at: loop.save, killed_at: die}
    with pytest.raises(Killed):
        loop.run()
    return task


def test_a_killed_run_resumes_to_the_same_weights_and_batches(tmp_path: Path) -> None:
    whole = LineTask()
    undisturbed = Loop(whole, OPTIONS, tmp_path / "whole")
    undisturbed.run()
    killed_run(tmp_path / "killed")
    task = LineTask()
    resumed = Loop(task, OPTIONS, tmp_path / "killed")
    resumed.run(resume=True)
    assert sorted(task.batches) == list(range(5, 12))
    assert all(torch.equal(task.batches[step], whole.batches[step]) for step in task.batches)
    assert equal(task.model, whole.model)
    assert equal(resumed.average, undisturbed.average)
    exported = [torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "killed")]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    killed_run(tmp_path)
    Loop(LineTask(), OPTIONS, tmp_path).run(resume=True)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = read_log(tmp_path / "log.jsonl")
    assert len(lines) == 8 + 7  # steps 6 to 8 were taken twice
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert all({"loss", "gradient_norm", "root", "seconds"} <= row.keys() for row in rows)
    seconds = [row["seconds"] for row in rows[5:]]
    assert seconds == sorted(seconds)


def test_of_repeated_rows_the_later_counts_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": 2, "loss": 1}, {"step": 1, "loss": 3}, {"step": 2, "loss": 5}, 7]
    log.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "lo', encoding="utf-8")
    assert read_log(log) == [{"step": 1, "loss": 3}, {"step": 2, "loss": 5}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    task = LineTask()
    Loop(task, OPTIONS, tmp_path).run()
    again = LineTask()
    Loop(again, OPTIONS, tmp_path).run(resume=True)
    assert again.batches == {}
    assert equal(again.model, task.model)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    killed_run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ModelError, match=r"already.*--resume"):
        Loop(LineTask(), OPTIONS, tmp_path).run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    task = LineTask()
    Loop(task, OPTIONS, tmp_path / "deep" / "new").run(resume=True)
    assert len(task.batches) == OPTIONS.steps


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b"nothing\nof the\nkind"),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save({"model": LineTask().model.state_dict()}, path),
        lambda path: torch.save(LineTask(width=5).model, path),
    ],
    ids=["truncated", "text", "empty", "incomplete", "pickled module"],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    killed_run(tmp_path)
    spoil(tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError) as caught:
        Loop(LineTask(), OPTIONS, tmp_path).run(resume=True)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "checkpoint.pt") in message
    assert len(message) < 500 + len(str(tmp_path))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    killed_run(tmp_path)
    with pytest.raises(ModelError, match="does not fit"):
        Loop(LineTask(width=5), OPTIONS, tmp_path).run(resume=True)


def test_checkpoints_come_by_the_clock_and_leave_nothing_else(tmp_path: Path) -> None:
    task = LineTask()
    loop = Loop(task, OPTIONS.model_copy(update={"checkpoint_minutes": 0.0}), tmp_path)
    seen: list[int] = []

    def look() -> None:
        seen.append(int(torch.load(loop.checkpoint, weights_only=True)["step"]))

    task.before = {2: look, 9: look}
    loop.run()
    assert seen == [2, 9]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint.pt", "log.jsonl", "loss.png", "weights.pt"]


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def half(_state: object, path: Path) -> None:
        path.write_bytes(before[:100])
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        Loop(LineTask(), OPTIONS, tmp_path).save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_average_follows_its_rule(tmp_path: Path) -> None:
    task = LineTask()
    loop = Loop(task, OPTIONS, tmp_path)
    expected = {name: t.clone() for name, t in task.model.state_dict().items()}

    def follow(step: int) -> Callable[[], None]:
        def update() -> None:  # the state after ``step`` steps
            decay = min(OPTIONS.ema, (1 + step) / (10 + step))
            for name, new in task.model.state_dict().items():
                floating = expected[name].is_floating_point()
                expected[name] = decay * expected[name] + (1 - decay) * new if floating else new.clone()

        return update

    task.before = {step: follow(step) for step in range(1, OPTIONS.steps)}
    loop.run()
    follow(OPTIONS.steps)()
    for name, mean in loop.average.state_dict().items():
        torch.testing.assert_close(mean, expected[name])
    assert not any(p.requires_grad for p in loop.average.parameters())


def test_a_step_without_a_finite_gradient_is_skipped(tmp_path: Path) -> None:
    task = LineTask()
    task.bad_steps = {4}
    weights: dict[int, list[Tensor]] = {}

    def keep(step: int) -> Callable[[], None]:
        return lambda: weights.update({step: [p.detach().clone() for p in task.model.parameters()]})

    task.before = {step: keep(step) for step in (4, 5, 6)}
    Loop(task, OPTIONS, tmp_path).run()
    assert all(torch.equal(a, b) for a, b in zip(weights[4], weights[5], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[5], weights[6], strict=True))
    assert all(p.isfinite().all() for p in task.model.parameters())
    assert math.isnan(read_log(tmp_path / "log.jsonl")[4]["loss"])


def test_a_run_that_learns_nothing_is_given_up(tmp_path: Path) -> None:
    task = LineTask()
    task.bad_steps = set(range(OPTIONS.steps))
    with pytest.raises(ModelError, match="no numbers, nothing is learned"):
        Loop(task, OPTIONS, tmp_path).run()
    assert all(p.isfinite().all() for p in task.model.parameters())


def test_an_export_through_the_trained_model_leaves_its_weights(tmp_path: Path) -> None:
    class Through(LineTask):
        def export(self, model: nn.Sequential, folder: Path) -> None:
            self.model.load_state_dict(model.state_dict())
            super().export(self.model, folder)

    through, beside = Through(), LineTask()
    for task, folder in ((through, tmp_path / "through"), (beside, tmp_path / "beside")):
        loop = Loop(task, OPTIONS, folder)
        task.before = {5: loop.save}
        loop.run()
    assert equal(through.model, beside.model)
    assert not equal(through.model, loop.average)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    task = LineTask()
    task.model[0].requires_grad_(False)
    before = task.model[0].weight.clone()
    Loop(task, OPTIONS, tmp_path).run()
    assert torch.equal(task.model[0].weight, before)


@pytest.mark.parametrize("pieces", [1, 3])
def test_drawing_ahead_changes_nothing(tmp_path: Path, pieces: int) -> None:
    runs = []
    for prefetch in (False, True):
        task = LineTask()
        options = OPTIONS.model_copy(update={"prefetch": prefetch, "pieces": pieces})
        Loop(task, options, tmp_path / str(prefetch)).run()
        assert len(task.progress) == OPTIONS.steps * pieces
        runs.append(task.model)
    assert equal(*runs)


def test_an_error_while_drawing_ahead_surfaces(tmp_path: Path) -> None:
    task = LineTask()

    def fail() -> None:
        raise OSError("the disk is gone")

    task.before = {6: fail}
    with pytest.raises(OSError, match="the disk is gone"):
        Loop(task, OPTIONS.model_copy(update={"prefetch": True}), tmp_path).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_resumes_to_the_same_weights(tmp_path: Path, number: signal.Signals) -> None:
    whole = LineTask()
    Loop(whole, OPTIONS, tmp_path / "whole").run()
    task = LineTask()
    task.before = {7: lambda: signal.raise_signal(number)}
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        Loop(task, OPTIONS, tmp_path / "stopped").run()
    assert signal.getsignal(number) is handler
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == 8
    again = LineTask()
    Loop(again, OPTIONS, tmp_path / "stopped").run(resume=True)
    assert equal(again.model, whole.model)


def test_a_second_request_stops_at_once() -> None:
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_bf16(tmp_path: Path) -> None:
    task = LineTask()
    seen: list[torch.dtype] = []
    task.model[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    Loop(task, OPTIONS.model_copy(update={"precision": "bf16", "steps": 2}), tmp_path).run()
    assert set(seen) == {torch.bfloat16}
    assert task.model[0].weight.dtype == torch.float32


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate_at(step, OPTIONS) for step in range(OPTIONS.steps + 5)]
    assert rates[:3] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[OPTIONS.steps :] == pytest.approx([0.05 / 20] * 5)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": s, "seconds": s, "loss": 1 / s, "odd": math.nan, "late": 2.0} for s in range(1, 30)]
    rows[3]["loss"], rows[5]["loss"] = math.nan, math.inf
    del rows[0]["late"]
    log.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    plot_log(log)
    assert not (tmp_path / "loss.png").exists()  # one point is no curve
    log.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plot_log(log)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_plotting_library_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib.*pip install 'latentseg\[train\]'"):
        Loop(LineTask(), OPTIONS, tmp_path / "run").run()
    assert not (tmp_path / "run").exists()

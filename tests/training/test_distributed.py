"""Two processes learn what one process learns, through `accelerate launch`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latentseg.training.log import read_log

pytest.importorskip("accelerate", reason="needs the extra `train`")

SCRIPT = """
import os
import signal
import sys
from pathlib import Path
import torch
from torch import nn
from latentseg.training.loop import Loop, LoopOptions, Task

class LineTask(Task):
    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(1, 1))
        self.model[3].requires_grad_(False)
    def batch(self, rng, progress):
        if stop_at and progress >= stop_at[0] and os.environ.get("RANK") == "1":
            stop_at.clear()
            os.kill(os.getpid(), signal.SIGINT)
        return torch.tensor(rng.normal(size=(8, 3)), dtype=torch.float32)
    def loss(self, batch):
        error = (self.model(batch)[:, 0] - batch.sum(1)).square().mean()
        return error, {"root": float(error.detach()) ** 0.5}
    def export(self, model, folder):
        torch.save(model.state_dict(), folder / "weights.pt")

stop_at = [float(argument) for argument in sys.argv[2:]]
options = LoopOptions(steps=30, learning_rate=0.05, warmup=3, log_every=1, pieces=4, threads=1)
loop = Loop(LineTask(), options, Path(sys.argv[1]))
try:
    loop.run()
except KeyboardInterrupt:
    print("stopped after", loop.step)
print("processes:", loop.processes.num_processes)
"""


def launch(script: Path, out: Path, *extra: str, processes: int) -> str:
    command = [sys.executable, str(script), str(out), *extra]
    if processes > 1:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
        command = [*launcher, "--num_processes", str(processes), *command[1:]]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"processes: {processes}" in done.stdout
    return done.stdout


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    for processes in (1, 2):
        launch(script, tmp_path / str(processes), processes=processes)
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("1", "2"))
    assert [row["step"] for row in two] == list(range(1, 31))  # one process writes
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], abs=1e-3)
    assert one[-1]["loss"] < 0.5 * one[0]["loss"]
    weights = [torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("1", "2")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=1e-4)


def test_all_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    printed = launch(script, tmp_path / "run", "0.5", processes=2)
    assert printed.count("stopped after 16") == 2
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 16

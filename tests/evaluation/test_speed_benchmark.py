"""The benchmark of Stable Diffusion's speed, on narrow networks: fitted last layers in both precisions."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed_sd15.py"


def test_fitted_last_layers_draw_what_is_bright_in_both_precisions(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    full, half = (
        script["drawn"](dtype, tmp_path / "layers.npz", slices=4, slab=2, thin=4)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (full["truth"] == half["truth"]).all()
    found = script["agreement"](full, half)
    for name, least in (("autoencoder", 0.7), ("light", 0.9)):
        assert found[name]["dice_fp32_truth"] > least
        assert 0.9 < found[name]["dice_bf16_fp32"] < 1
    same = script["agreement"](full, full)["light"]
    assert (same["dice_bf16_fp32"], same["error_of_the_margin"]) == (pytest.approx(1), 0)

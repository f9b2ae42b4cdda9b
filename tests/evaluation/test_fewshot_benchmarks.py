"""The benchmarks of few-shot segmentation at tiny size: the UniverSeg-style baseline and the ablations."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import latentseg as ls
from helpers import packs
from latentseg.evaluation.datasets import CHAOS
from latentseg.evaluation.protocols import EP2, run_protocol
from latentseg.evaluation.slices import SupportSlices
from latentseg.imaging import write_like
from latentseg.methods.fewshot.support import Support
from latentseg.phantom.bodies import Phantom, abdomen

ROOT = Path(__file__).parents[2]
CONFIG = """
loop: {steps: 2, learning_rate: 1.0e-3, warmup: 1, log_every: 1, threads: 1}
episodes: {scenes: 1, targets: 2, queries: 1, min_area: 12}
"""


def benchmark(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py")))


def example(n: int) -> SupportSlices:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (n, 64, 64)).astype(np.float32)
    return SupportSlices(images, rng.random((n, 64, 64)) < 0.5)


def test_universeg_sees_all_supports_in_any_order() -> None:
    torch.manual_seed(0)
    module = benchmark("universeg")
    network = module.UniverSeg(4)
    query = torch.rand(2, 1, 64, 64)
    images, masks = torch.rand(2, 3, 1, 64, 64), (torch.rand(2, 3, 64, 64) > 0.5).float()
    with torch.no_grad():
        one = network(query, images, masks)
        other = network(query, images[:, [2, 0, 1]], masks[:, [2, 0, 1]])
        fewer = network(query, images[:, :2], masks[:, :2])
    assert one.shape == (2, 64, 64)
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, fewer, atol=1e-6)


def test_universeg_is_trained_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `train`")
    packed = packs.small_pack(tmp_path / "data")
    (tmp_path / "fewshot.yaml").write_text(CONFIG, encoding="utf-8")
    run = tmp_path / "run"
    words = [tmp_path / "fewshot.yaml", "--pack", packed.folder, "--out", run, "--minutes", "0"]
    monkeypatch.setattr(sys, "argv", ["universeg.py", *map(str, words)])
    module = benchmark("universeg")
    monkeypatch.setitem(module.main.__globals__, "SIZE", 16)
    module.main()
    module.main()  # a training that is done is not done again
    assert len((run / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    method = module.UniverSegMethod(run)
    found = method(example(3), example(5).images)
    assert found.shape == (5, 64, 64)
    assert ((found >= 0) & (found <= 1)).all()
    assert len(method.fingerprint) == 12


@pytest.mark.parametrize("part", ["SQI", "VTCT", "QE"])
def test_each_part_can_be_taken_away(part: str, tiny_model: Path, shown: Phantom) -> None:
    segmenter = ls.load(backbone=tiny_model)
    liver = Support.from_volumes(shown.image, shown.labels, name="liver", label=1)
    support = SupportSlices(liver.images[:1], liver.masks[:1])
    module = benchmark("ablation_fewshot")
    methods = {method.name: method for method in module.variants(segmenter)}
    assert "without refinement" in methods
    full, less = methods["full"], methods[f"without {part}"]
    assert full.fingerprint == less.fingerprint
    before, after = full(support, liver.images[1:]), less(support, liver.images[1:])
    assert before.shape == after.shape
    if part == "SQI":
        told = less._context(support).of("network")
        assert not any(t.shape[2] for name, t in told.items() if name.startswith("cache/keys/"))
    assert not np.array_equal(before, after)


def test_the_ablations_of_whole_scans(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / CHAOS.folder).mkdir()
    for case in CHAOS.members(0):
        phantom = abdomen(seed=int(case), modality="MR", shape=(32, 32, 8))
        liver = phantom.labels.array == 1
        for kind, array in (("image", phantom.image.array), ("label", liver.astype(np.uint8))):
            path = tmp_path / CHAOS.folder / f"{kind}_{case}.nii.gz"
            write_like(array, like=phantom.image, path=path, kind="image" if kind == "image" else "mask")
    module = benchmark("ablation_fewshot")
    methods = list(module.variants(ls.load(backbone=tiny_model)))
    protocol = EP2(CHAOS.at(tmp_path), organs=("liver",), support_slices=3)
    rows = [outcome.row for outcome in run_protocol(protocol, methods=methods[-1:], queries=1)]
    assert [row.method for row in rows] == ["without refinement"]


def test_the_start_is_an_option_of_the_training() -> None:
    module = benchmark("ablation_fewshot")
    assert {change["start"] for change in module.TRAININGS.values()} == {"denoiser", "matching"}

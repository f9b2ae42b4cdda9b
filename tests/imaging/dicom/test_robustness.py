"""The benchmark of mixed series, once through all traits; and that it would notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentseg.imaging import Volume

pytest.importorskip("highdicom")
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import dicom_robustness

    return dicom_robustness


def test_every_trait_is_exact_or_refused(benchmark: Any, tmp_path: Path) -> None:
    count = len(benchmark.TRAITS)
    assert benchmark.main(["--count", str(count), "--output", str(tmp_path / "out.json")]) == 0
    totals = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["totals"]
    assert totals == {"exact": count - len(benchmark.REFUSED), "refused": len(benchmark.REFUSED)}


def test_the_benchmark_notices_a_flip_and_a_shift(benchmark: Any) -> None:
    draft = benchmark.draft_of(0)
    scan = Volume(draft.truth.array, draft.truth.affine_ras_mm, header=unmarked())
    assert benchmark.is_exact(draft, scan)
    assert not benchmark.is_exact(draft, scan.with_array(np.ascontiguousarray(draft.truth.array[::-1])))
    moved = draft.truth.affine_ras_mm.copy()
    moved[:3, 3] += 0.1
    assert not benchmark.is_exact(draft, replace(scan, affine_ras_mm=moved))


def unmarked() -> Any:
    class Header:
        marks = ()

    return Header()

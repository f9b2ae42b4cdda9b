"""Damaged files of every kind: read, or refused with our own error; and that the benchmark would notice."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentseg.errors import LatentsegError, noted

pytest.importorskip("highdicom")
pytest.importorskip("imagecodecs")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
READERS = (
    *("nifti", "itk", "pictures", "dicom", "archive"),
    *("segmentation", "structures", "supports", "tables"),
)


@pytest.fixture(scope="module", params=READERS)
def prepared(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files of one kind with their content, and what damages them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import fuzz_targets

        assert tuple(fuzz_targets.READERS) == READERS
        targets = list(fuzz_targets.READERS[request.param](tmp_path_factory.mktemp("fuzz")))
        for target in targets:
            target.use()
        return [(target, target.content()) for target in targets], fuzz_targets.damage


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(draws=st.randoms(use_true_random=False))
def test_damage_is_read_or_refused(prepared: Any, draws: Any) -> None:
    targets, damage = prepared
    target, content = targets[draws.randrange(len(targets))]
    target.put(damage(content, draws.randrange))
    try:
        with noted([]), suppress(LatentsegError, MemoryError):
            target.use()
    finally:
        target.put(content)


def test_the_benchmark_counts_and_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz_readers

    words = ["--seconds", "0.2", "--readers", "tables", "--output", str(tmp_path / "out.json")]
    assert fuzz_readers.main(words) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["readers"]
    assert sum(row.get(outcome, 0) for outcome in ("read", "refused")) > 0
    assert json.loads(capsys.readouterr().out) == row

    class Broken:
        def use(self) -> None:
            raise ZeroDivisionError("by design")

    assert "by design" in fuzz_readers.attempt(Broken())

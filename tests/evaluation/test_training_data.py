"""What the manifests of weights say about test scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.training_data import seen_cases, trained_on


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        ("BTCV (SABS) cases 7-9", {"7", "8", "9"}),
        ("SABS cases 7-8, 20", {"7", "8", "20"}),
        ("sabs case 3", {"3"}),
        ("SABS", set(SABS.ids)),
        ("SABSX cases 1-2", set()),
        ("IXI, 60 slices", set()),
    ],
)
def test_entries(entry: str, seen: set[str]) -> None:
    assert seen_cases([entry], SABS) == seen
    assert seen_cases([entry], CHAOS) == set()


def test_the_shipped_weights_name_their_scans() -> None:
    from latentseg.backbones import registry

    listed = trained_on(registry.resolve("compact"))
    assert listed is not None
    assert not {str(n) for n in range(7)} & seen_cases(listed, SABS)
    assert seen_cases(listed, CHAOS) == set()


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    assert trained_on(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"files": {}}', encoding="utf-8")
    assert trained_on(tmp_path) is None

"""Codes of segments: as in the standard's own dictionary, for what the vocabulary names."""

from __future__ import annotations

import pytest

from latentseg.text.codes import PRIVATE_SCHEME, _tables, segment_code
from latentseg.text.vocabulary import concept_named

pytest.importorskip("pydicom")


def test_every_code_is_in_the_dictionary_of_the_standard() -> None:
    from pydicom.sr._concepts_dict import concepts

    known = {value for table in concepts["SCT"].values() for value in table}
    for table in _tables().values():
        for name, code in table.items():
            assert code.value in known, name
            assert code.scheme == "SCT"


def test_organs_of_the_table_are_in_the_vocabulary() -> None:
    for name in _tables()["organ"]:
        assert concept_named(name).name == name


@pytest.mark.parametrize(
    ("target", "meaning", "region", "side"),
    [
        ("liver", "Liver", None, None),
        ("Left_Kidney", "Kidney", None, "Left"),
        ("kidney right", "Kidney", None, "Right"),
        ("left ventricle", "Left ventricle", None, None),
        ("hepatic tumor", "Neoplasm", "Liver", None),
        ("left kidney tumor", "Neoplasm", "Kidney", "Left"),
        ("liver metastasis", "Metastasis", "Liver", None),
        ("renal cyst", "Cyst", "Kidney", None),
        ("lung nodule", "Nodule", "Lung", None),
        ("HCC", "Neoplasm", "Liver", None),
    ],
)
def test_names_are_understood(target: str, meaning: str, region: str | None, side: str | None) -> None:
    code = segment_code(target)
    assert code.kind.meaning == meaning
    assert (code.region.meaning if code.region else None) == region
    assert (code.side.meaning if code.side else None) == side


@pytest.mark.parametrize("target", ["GTV-1", "psoas muscle", "ein Organ mit einem sehr langen Namen" * 3])
def test_other_names_are_kept(target: str) -> None:
    code = segment_code(target).kind
    assert code.scheme == PRIVATE_SCHEME
    assert len(code.value) <= 16
    assert code.meaning == target[:64]

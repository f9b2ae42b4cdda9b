"""SNOMED CT codes for the names of targets, as DICOM segments carry them."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

from latentseg.imaging.dicom.seg import Code, SegmentCode
from latentseg.text.vocabulary import Concept, by_term, normal_form

PRIVATE_SCHEME = "99LATENTSEG"


def segment_code(target: str) -> SegmentCode:
    """What a target is, where it is, and on which side; its own name where the vocabulary has no code.

    Args:
        target: a name or prompt, such as ``"left kidney"`` or ``"hepatic tumor"``.
    """
    words = normal_form(target).split()
    sides, organs, categories = _table("side"), _table("organ"), _table("category")
    concept, side = by_term().get(" ".join(words)), None
    if concept is None or concept.name not in organs:  # not so the left ventricle, which is no side of one
        concept = by_term().get(" ".join(word for word in words if word not in sides), concept)
        side = next((sides[word] for word in words if word in sides), None)
    if concept is not None and concept.kind == "finding":
        region = organs.get(concept.organ)
        return SegmentCode(categories["finding"], _kind_of_finding(concept), region, side)
    if concept is not None and concept.name in organs:
        return SegmentCode(categories["organ"], organs[concept.name], None, side)
    own = Code("".join(words)[:16] or "target", PRIVATE_SCHEME, target[:64])
    return SegmentCode(categories["unknown"], own)


def _kind_of_finding(concept: Concept) -> Code:
    kinds = _table("finding")
    return next((kinds[kind] for kind in kinds if kind in concept.name), kinds["tumor"])


def _table(name: str) -> dict[str, Code]:
    return _tables()[name]


@cache
def _tables() -> dict[str, dict[str, Code]]:
    text = resources.files(__package__).joinpath("codes.yaml").read_text(encoding="utf-8")
    return {
        name: {key: Code(value, "SCT", meaning) for key, (value, meaning) in rows.items()}
        for name, rows in yaml.safe_load(text).items()
    }

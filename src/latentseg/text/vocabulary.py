"""The terms that prompts may use: modalities, regions, states, organs and findings, with their synonyms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

Kind = Literal["modality", "region", "state", "organ", "finding"]
SPELLINGS = (("tumour", "tumor"), ("^oe(?=dema|soph)", "e"), ("(?<=h|k)aem", "em"))
KINDS: tuple[Kind, ...] = ("modality", "region", "state", "organ", "finding")


@dataclass(frozen=True)
class Concept:
    """One thing that a prompt may name.

    Attributes:
        name: Preferred term.
        kind: What it is.
        synonyms: Other terms and abbreviations for it.
        organ: Of a finding, where it is looked for; empty where it may be anywhere.
        region: Of an organ, the body region it lies in.
        broader: Of a finding, one that it is a kind of, and as which it is asked for too.
    """

    name: str
    kind: Kind
    synonyms: tuple[str, ...] = ()
    organ: str = ""
    region: str = ""
    broader: str = ""

    @property
    def terms(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)

    @property
    def spoken(self) -> tuple[str, ...]:
        """Terms that an encoder of ordinary English understands: all but the abbreviations."""
        return tuple(term for term in self.terms if not is_abbreviation(term)) or self.terms


def is_abbreviation(term: str) -> bool:
    """Whether a term is short for something, such as HCC or ccRCC."""
    return " " not in term and sum(letter.isupper() for letter in term) >= 2


@cache
def vocabulary() -> tuple[Concept, ...]:
    """All concepts, in the order of ``vocabulary.yaml``."""
    text = resources.files(__package__).joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(text)
    return tuple(_concept(kind, str(name), row) for kind in KINDS for name, row in rows[kind].items())


def _concept(kind: Kind, name: str, row: Any) -> Concept:
    """A row is a list of synonyms, or a table of the fields of a concept."""
    fields: dict[str, Any] = {"synonyms": row} if isinstance(row, list) else row
    return Concept(name, kind, **fields | {"synonyms": tuple(fields.get("synonyms", ()))})


@cache
def by_term() -> dict[str, Concept]:
    """Concepts by every term in its normal form (:func:`normal_form`)."""
    return {normal_form(term): concept for concept in vocabulary() for term in concept.terms}


def concept_named(name: str) -> Concept:
    """The concept of a preferred term.

    Raises:
        KeyError: There is none of that name.
    """
    return by_term()[normal_form(name)]


def normal_form(text: str) -> str:
    """Lower case, single spaces, American spelling, the plural s of the last word dropped.

    Underscores and hyphens count as spaces, and "mets" as metastases.
    """
    words = [_american(word) for word in text.lower().replace("_", " ").replace("-", " ").split()]
    if words and re.fullmatch(r"\w{3,}[^siu]s", words[-1]):
        words[-1] = words[-1][:-1]
    return " ".join(words)


def _american(word: str) -> str:
    if word in ("met", "mets"):
        return "metastases"
    for british, american in SPELLINGS:
        word = re.sub(british, american, word)
    return word

"""What a prompt means: the concept it names, and the phrases that stand for it beside its healthy opposite.

The templates are those that DiffuGTS is known by (secondhand): "A normal {modality} of {organ}" against "An
abnormal {modality} of {tumor}"; the mean over the synonyms of a concept stands for it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentseg.errors import UsageError
from latentseg.text.vocabulary import Concept, by_term, concept_named, normal_form, vocabulary

NORMAL = "a normal {modality} of the {organ}"
ABNORMAL = "an abnormal {modality} of the {organ} with {finding}"
ANYWHERE = "an abnormal {modality} with {finding}"
MODALITIES = ("CT", "MR")
GENERIC = {"tumor", "cancer", "lesion", "mass", "carcinoma", "neoplasm", "malignancy"}
SEPARATORS = re.compile(r"[,;/&+|]|\b(?:and|or)\b", re.IGNORECASE)
LONGEST = 200  # characters of a prompt
FILLER = {"a", "an", "the", "of", "in", "on", "with", "find", "segment", "show", "please", "all", "any"}


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was read.

    Attributes:
        text: What the user wrote, without surrounding space.
        concept: What it names, or None where the vocabulary does not know it.
        modality: "CT" or "MR" where the prompt names it.
        similar: Terms of the vocabulary that look like it, for "did you mean".
    """

    text: str
    concept: Concept | None
    modality: str | None = None
    similar: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Preferred term, or the user's own words."""
        return self.concept.name if self.concept else self.text

    @property
    def organ(self) -> str:
        """Where it is looked for: the organ of a finding, an organ itself, or nothing."""
        if self.concept is None:
            return ""
        return self.concept.name if self.concept.kind == "organ" else self.concept.organ

    def abnormal_phrases(self, modality: str) -> tuple[str, ...]:
        """Phrases for a scan of "CT" or "MR" that shows it, one for every synonym."""
        findings = self.concept.spoken if self.concept else (self.text,)
        template = ABNORMAL if self.organ else ANYWHERE
        return tuple(template.format(modality=modality, organ=self.organ, finding=term) for term in findings)

    def normal_phrases(self, modality: str) -> tuple[str, ...]:
        """Phrases for a healthy scan of the organ that it is looked for in."""
        return normal_phrases(self.organ, modality)


def read_prompt(text: str) -> Prompt:
    """Read a prompt.

    Raises:
        UsageError: It is empty, too long, holds no word, names nothing but a modality, region or state, or
            several findings.
    """
    text = " ".join(text.split())
    check(text)
    words = _words(text)
    modality, words = _split_modality(words)
    spoken = " ".join(words)
    if not spoken:
        fix = 'name an organ or a finding too, such as "liver tumor"'
        raise UsageError(f"the prompt {text!r} names no structure", fix=fix)
    concept = concept_of(words)
    if concept and concept.kind not in ("organ", "finding"):
        fix = 'name an organ or a finding, such as "liver tumor"'
        raise UsageError(f"the prompt {text!r} names a {concept.kind}, not something to segment", fix=fix)
    named = () if concept else findings_in(text)
    if len(named) > 1:
        what = f"the prompt {text!r} names {len(named)} findings"
        raise UsageError(what, fix="give one prompt for each: " + ", ".join(map(repr, named)))
    similar = () if concept else did_you_mean(spoken)
    return Prompt(text, concept, modality, similar)


def check(text: str) -> None:
    """Refuse what cannot be a prompt.

    Raises:
        UsageError: It is empty, longer than 200 characters, or holds no word.
    """
    if not text:
        raise UsageError("the prompt is empty", fix='name what to find, such as "liver tumor"')
    if len(text) > LONGEST:
        what = f"the prompt has {len(text)} characters, at most {LONGEST} are read"
        raise UsageError(what, fix="name one structure in a few words, and give several prompts for several")
    if sum(letter.isalpha() for letter in text) < 2:
        raise UsageError(f"the prompt {text!r} holds no word", fix='name what to find, such as "liver tumor"')


def concept_of(words: Sequence[str]) -> Concept | None:
    """What words name, also turned ("tumor of the liver") and in parts ("stomach" and "cancer")."""
    turned = [" ".join([*words[at:], *words[:at]]) for at in range(len(words))]
    exact = (by_term().get(normal_form(spoken)) for spoken in turned)
    in_parts = (any_tumor_of(*spoken.rsplit(" ", 1)) for spoken in turned if " " in spoken)
    return next((concept for concept in (*exact, *in_parts) if concept), None)


def any_tumor_of(organ: str, generic: str) -> Concept | None:
    """The finding that any word for a tumor stands for in an organ."""
    place = by_term().get(normal_form(organ))
    if place is None or place.kind != "organ" or normal_form(generic) not in GENERIC:
        return None
    found = (concept for concept in vocabulary() if concept.kind == "finding" and concept.organ == place.name)
    return next((one for one in found if any(term.split()[-1] in GENERIC for term in one.terms)), None)


def _words(text: str) -> list[str]:
    """The words of a prompt that say something."""
    return [word for word in normal_form(text).split() if word not in FILLER]


def findings_in(text: str) -> tuple[str, ...]:
    """The findings of the vocabulary that a text lists, between commas and the like."""
    parts = (concept_of(_words(part)) for part in SEPARATORS.split(text))
    return tuple(dict.fromkeys(part.name for part in parts if part and part.kind == "finding"))


def normal_phrases(organ: str, modality: str) -> tuple[str, ...]:
    """Phrases for a healthy scan of an organ, one for every synonym; of the body where there is no organ."""
    terms = concept_named(organ).spoken if organ else ("body",)
    return tuple(NORMAL.format(modality=modality, organ=term) for term in terms)


def did_you_mean(text: str, *, count: int = 3) -> tuple[str, ...]:
    """Names of the concepts of the terms that are spelled most alike."""
    close = difflib.get_close_matches(normal_form(text), list(by_term()), n=3 * count, cutoff=0.6)
    return tuple(dict.fromkeys(by_term()[term].name for term in close))[:count]


def _split_modality(words: list[str]) -> tuple[str | None, list[str]]:
    """Take the words of a modality off the front or the end, such as "CT scan" or "MRI"."""
    for length in (3, 2, 1):
        for taken, rest in ((words[:length], words[length:]), (words[-length:], words[:-length])):
            concept = by_term().get(normal_form(" ".join(taken)))
            if len(taken) == length and concept and concept.kind == "modality":
                return concept.name, rest
    return None, words

"""From a prompt to what the networks listen to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.registry import is_offline
from latentseg.errors import ModelError, UsageError, caution
from latentseg.imaging import Volume
from latentseg.text import embed, load_encoder
from latentseg.text.encoders import Pooling
from latentseg.text.prompts import Prompt, read_prompt
from latentseg.text.vocabulary import concept_named

ENCODER, POOLING = "text_encoder", "text_pooling"
"""Names of the facts in a file of weights that say which encoder its texts come from."""

KEPT = 256  # prompts that are not read again
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class Query(NamedTuple):
    """A prompt for one modality.

    Attributes:
        prompt: As it was read.
        region: Of the body, that the organ of the prompt lies in; nothing where that is not known.
        texts: ``(1, 2, D)``, unit vectors of the normal and the abnormal text.
        healthy: Phrases that tell a denoiser what the pseudo-healthy image shall be.
    """

    prompt: Prompt
    region: str
    texts: Tensor
    healthy: tuple[str, ...]


@dataclass(frozen=True)
class Queries:
    """Reads prompts with one text encoder, each once: it is checked before it is used.

    Attributes:
        embed: Unit vectors of phrases.
        read: Prompts that were read, by text and modality.
    """

    embed: Embed
    read: dict[tuple[str, str], Query] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, text: str, modality: str) -> Query:
        """Read a prompt for a scan of "CT", "MR" or "unknown".

        Raises:
            UsageError: No prompt, one that names an organ rather than a finding, or a phrase that needs an
                encoder which is not installed.
        """
        query = self.read.get((text, modality))
        if query is None:
            query = self._query(text, modality)
            if len(self.read) >= KEPT:
                self.read.clear()
            self.read[text, modality] = query
        return query

    def _query(self, text: str, modality: str) -> Query:
        prompt = read_prompt(text)
        if prompt.concept is not None and prompt.concept.kind == "organ":
            what = f"the prompt {text!r} names an organ, and tumors are looked for"
            fix = f"name a finding, such as {prompt.concept.name + ' tumor'!r}, or show the organ in examples"
            raise UsageError(what, fix=fix)
        spoken = prompt.modality or (modality if modality in ("CT", "MR") else "CT")
        broader = prompt.concept.broader if prompt.concept else ""
        asked = [prompt, read_prompt(broader)] if broader else [prompt]
        texts = [
            unit(np.mean([self.mean(phrases(one, spoken)) for one in asked], axis=0))
            for phrases in (Prompt.normal_phrases, Prompt.abnormal_phrases)
        ]
        region = concept_named(prompt.organ).region if prompt.organ else ""
        healthy = tuple(word for word in (spoken, region, "healthy") if word)
        return Query(prompt, region, torch.from_numpy(np.stack(texts))[None], healthy)

    def mean(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Unit vector of the mean of phrases."""
        return unit(self.embed(phrases).mean(0))


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector at length one."""
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def queries_of(facts: Mapping[str, str], *, text_dim: int) -> Queries:
    """Reads prompts with the encoder that weights were trained with, as the facts in their file name it.

    Raises:
        ModelError: That encoder is not on this machine, or its vectors are of another length.
    """
    name = facts.get(ENCODER, "")
    if not name:
        return Queries(embed)
    pooling: Pooling = "first" if facts.get(POOLING) == "first" else "mean"
    encoder = load_encoder(name, pooling=pooling, offline=is_offline())
    if encoder.dim != text_dim:
        what = f"its vectors have {encoder.dim} numbers, and the tumor weights expect {text_dim}"
        raise ModelError(what, where=name, fix="train with this encoder, or take the weights' own")
    return Queries(encoder.encode)


def warn_of_place(query: Query) -> None:
    """Say when a prompt names no organ.

    Warns:
        LatentsegWarning: It is looked for everywhere.
    """
    prompt = query.prompt
    if prompt.concept is None:
        hint = f"; did you mean {' or '.join(map(repr, prompt.similar))}?" if prompt.similar else ""
        caution(f"the vocabulary does not know {prompt.text!r}: its words are looked for everywhere{hint}")
    elif not prompt.organ:
        caution(
            f"{prompt.text!r} names no organ and is looked for everywhere, where much that is healthy is "
            f"suspected: name one, such as 'liver {prompt.name}'"
        )


def warn_of_modality(query: Query, scan: Volume) -> None:
    """Say when the prompt names another modality than the scan's.

    Warns:
        LatentsegWarning: They differ.
    """
    said = query.prompt.modality
    if said and scan.modality in ("CT", "MR") and said != scan.modality:
        caution(f"the prompt {query.prompt.text!r} says {said}, and the scan is {scan.modality}")

"""Precomputed embeddings of all phrases of the vocabulary, so that no text encoder is needed for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import ModelError, UsageError
from latentseg.imaging.files import written_whole
from latentseg.text.encoders import INSTALL, TextEncoder, load_encoder
from latentseg.text.prompts import MODALITIES, did_you_mean, normal_phrases, read_prompt
from latentseg.text.vocabulary import vocabulary

FILE = "bank.npz"


class EmbeddingBank:
    """Phrases and their unit vectors.

    Args:
        phrases: ``N`` phrases; case and spaces do not matter.
        vectors: ``(N, D)``, unit length.
        encoder: Name of the encoder that made them.
    """

    def __init__(self, phrases: Sequence[str], vectors: NDArray[np.floating], *, encoder: str) -> None:
        self.phrases, self.encoder = tuple(phrases), encoder
        self.vectors = vectors.astype(np.float32)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self._row = {key(phrase): row for row, phrase in enumerate(self.phrases)}

    def __contains__(self, phrase: object) -> bool:
        return isinstance(phrase, str) and key(phrase) in self._row

    def embed(self, phrases: Sequence[str], *, encoder: TextEncoder | None = None) -> NDArray[np.float32]:
        """Unit vectors ``(N, D)``; what is not in the bank is encoded, where an encoder is at hand.

        Args:
            phrases: Any phrases.
            encoder: Encodes unknown phrases; the installed default when left out.

        Raises:
            UsageError: A phrase is unknown and no encoder is installed.
        """
        unknown = [phrase for phrase in phrases if phrase not in self]
        if unknown:
            encoded = dict(zip(unknown, self._encode(unknown, encoder), strict=True))
        return np.stack([encoded[p] if p not in self else self.vectors[self._row[key(p)]] for p in phrases])

    def _encode(self, phrases: list[str], encoder: TextEncoder | None) -> NDArray[np.float32]:
        try:
            return (encoder or _default_encoder()).encode(phrases)
        except ModelError as error:
            near = did_you_mean(phrases[0])
            hint = f"write {' or '.join(map(repr, near))}, or {INSTALL}" if near else INSTALL
            what = f"the phrase {phrases[0]!r} is not in the vocabulary, and new ones need a text encoder"
            raise UsageError(what, fix=hint) from error

    def save(self, path: Path) -> None:
        """Write an ``.npz`` in half precision, whole or not at all."""
        with written_whole(path) as temporary, temporary.open("wb") as file:
            vectors = self.vectors.astype(np.float16)
            np.savez_compressed(file, phrases=np.array(self.phrases), vectors=vectors, encoder=self.encoder)


def key(phrase: str) -> str:
    """A phrase as the bank looks it up."""
    return " ".join(phrase.lower().split())


@cache
def shipped_bank() -> EmbeddingBank:
    """The bank in the package."""
    with resources.as_file(resources.files(__package__).joinpath(FILE)) as path, np.load(path) as file:
        return EmbeddingBank(file["phrases"].tolist(), file["vectors"], encoder=str(file["encoder"]))


def embed(phrases: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors ``(N, 384)`` of phrases, from the shipped bank where it has them.

    Raises:
        UsageError: A phrase is unknown and no encoder is installed.
    """
    return shipped_bank().embed(phrases)


def bank_phrases() -> list[str]:
    """All that the shipped bank must hold: every term, and the phrases of every organ and finding."""
    phrases: list[str] = []
    for concept in vocabulary():
        phrases += concept.terms
        for modality in MODALITIES:
            if concept.kind == "organ":
                phrases += normal_phrases(concept.name, modality)
            if concept.kind in ("organ", "finding"):
                phrases += read_prompt(concept.name).abnormal_phrases(modality)
    phrases += [phrase for modality in MODALITIES for phrase in normal_phrases("", modality)]
    return list({key(phrase): phrase for phrase in phrases}.values())


def build_bank(encoder: TextEncoder | None = None) -> EmbeddingBank:
    """Encode all phrases of the vocabulary.

    Raises:
        ModelError: No encoder is installed.
    """
    encoder = encoder or _default_encoder()
    phrases = bank_phrases()
    return EmbeddingBank(phrases, encoder.encode(phrases), encoder=encoder.name)


@cache
def _default_encoder() -> TextEncoder:
    return load_encoder()

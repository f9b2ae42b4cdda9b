"""The encoder that tumor weights were trained with reads their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentseg.errors import ModelError
from latentseg.methods.tumor import queries
from latentseg.methods.tumor.queries import ENCODER, POOLING, queries_of
from latentseg.text import read_prompt


class Counting:
    """An encoder whose vectors say how long a phrase is."""

    name, dim = "counting", 3

    def encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.array([[len(phrase), 1.0, 0.0] for phrase in phrases], np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_encoder_of_the_weights_is_loaded_with_its_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    def load(name: str, *, pooling: str, offline: bool) -> Counting:
        asked.append((name, pooling, offline))
        return Counting()

    monkeypatch.setattr(queries, "load_encoder", load)
    monkeypatch.setenv("LATENTSEG_OFFLINE", "1")
    read = queries_of({ENCODER: "some/encoder", POOLING: "first"}, text_dim=3)
    assert asked == [("some/encoder", "first", True)]
    assert read("liver tumor", "CT").texts.shape == (1, 2, 3)
    with pytest.raises(ModelError, match="3 numbers, and the tumor weights expect 384"):
        queries_of({ENCODER: "some/encoder"}, text_dim=384)


def test_without_a_name_the_embedded_encoder_reads() -> None:
    assert queries_of({}, text_dim=384)("liver tumor", "CT").texts.shape == (1, 2, 384)


def test_an_encoder_that_is_not_here_is_said() -> None:
    with pytest.raises(ModelError, match="no text encoder"):
        queries_of({ENCODER: "/nowhere/encoder"}, text_dim=384)


def test_a_kind_of_tumor_is_also_asked_for_as_what_it_is_a_kind_of() -> None:
    read = queries_of({}, text_dim=384)
    broad, kind = read("brain tumor", "MR").texts[0, 1], read("glioma", "MR").texts[0, 1]
    own = read.mean(read_prompt("glioma").abnormal_phrases("MR"))
    assert torch.allclose(
        kind, torch.nn.functional.normalize(broad + torch.from_numpy(own), dim=0), atol=1e-6
    )
    assert kind @ broad > torch.from_numpy(own) @ broad

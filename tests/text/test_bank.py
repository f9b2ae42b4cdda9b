"""Embeddings: the shipped bank, and encoders where they are installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import BertConfig, BertModel, BertTokenizerFast

from latentseg.errors import ModelError, UsageError
from latentseg.text import EmbeddingBank, TransformerEncoder, bank, encoders, load_encoder
from latentseg.text.bank import bank_phrases, shipped_bank
from latentseg.text.vocabulary import vocabulary


class Letters:
    """Counts letters: enough of an encoder to see what is asked of it."""

    name, dim = "letters", 26

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        self.asked += phrases
        rows = [[1 + phrase.lower().count(chr(97 + i)) for i in range(26)] for phrase in phrases]
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(encoders.importlib.metadata, "distribution", missing)
    bank._default_encoder.cache_clear()


def test_the_shipped_bank_knows_the_vocabulary() -> None:
    shipped = shipped_bank()
    assert shipped.encoder == "all-MiniLM-L6-v2"
    assert [phrase for phrase in bank_phrases() if phrase not in shipped] == []
    assert shipped.vectors.shape == (len(shipped.phrases), 384)
    np.testing.assert_allclose(np.linalg.norm(shipped.vectors, axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("no_encoder")
def test_known_phrases_need_no_encoder() -> None:
    vectors = bank.embed(["CT", " Liver  tumor", "an abnormal MR of the brain with glioma"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[1], bank.embed(["liver tumor"])[0])


@pytest.mark.usefixtures("no_encoder")
def test_unknown_phrases_without_an_encoder() -> None:
    with pytest.raises(
        UsageError, match=r"'livr tumor' is not in the vocabulary.*'liver tumor'.*latentseg\[text\]"
    ):
        bank.embed(["CT", "livr tumor"])
    with pytest.raises(UsageError, match="text encoder"):
        bank.embed(["qqq"])


def test_unknown_phrases_go_to_the_encoder() -> None:
    letters = Letters()
    known = EmbeddingBank(["one", "two"], letters.encode(["one", "two"]), encoder="letters")
    letters.asked.clear()
    vectors = known.embed(["two", "three", "ONE"], encoder=letters)
    assert letters.asked == ["three"]
    np.testing.assert_allclose(vectors, Letters().encode(["two", "three", "one"]), atol=1e-6)


def test_neighbors_make_sense() -> None:
    findings = [c for c in vocabulary() if c.kind == "finding" and c.organ]
    names = [c.name for c in findings]
    for name, organ in (
        ("hepatocellular carcinoma", "liver"),
        ("renal cell carcinoma", "kidney"),
        ("glioma", "brain"),
    ):
        others = [n for n in names if n != name]
        similarity = bank.embed(others) @ bank.embed([name])[0]
        nearest = findings[names.index(others[int(similarity.argmax())])]
        assert nearest.organ == organ


def test_save_and_read(tmp_path: Path) -> None:
    letters = Letters()
    EmbeddingBank(["one", "two"], letters.encode(["one", "two"]), encoder="letters").save(tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as file:
        assert file["vectors"].dtype == np.float16
        assert file["phrases"].tolist() == ["one", "two"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT of a few hundred parameters in the layout of transformers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "liver", "tumor", "kidney"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_any_transformer_by_folder(bert: Path, pooling: encoders.Pooling) -> None:
    encoder = load_encoder(bert, pooling=pooling)
    assert encoder.dim == 16
    vectors = encoder.encode(["liver tumor", "kidney", "liver tumor"])
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    np.testing.assert_allclose(vectors[1], encoder.encode(["kidney"])[0], atol=1e-5)  # padding does not count
    assert encoder.encode([]).shape == (0, 16)


def test_a_missing_or_damaged_encoder(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match="no text encoder"):
        TransformerEncoder(tmp_path / "vocab.txt")
    (bert / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="no text encoder"):
        TransformerEncoder(bert)


def installed() -> bool:
    try:
        encoders.default_folder()
    except ModelError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="the extra latentseg[text] is not installed")
def test_the_bank_is_what_the_encoder_says() -> None:
    phrases = list(shipped_bank().phrases[::97])
    np.testing.assert_allclose(load_encoder().encode(phrases), shipped_bank().embed(phrases), atol=2e-3)

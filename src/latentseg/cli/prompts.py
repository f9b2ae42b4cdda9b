"""`latentseg prompts`: what a text prompt may name and how it is read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from latentseg.cli.output import AsJson, show_facts, show_json, show_table
from latentseg.errors import LatentsegError, UsageError

app = typer.Typer(no_args_is_help=True, help="List what prompts may name, and explain how one is read.")


@app.command("list")
def list_prompts(
    kind: Annotated[
        str | None, typer.Option(help="Only modality, region, state, organ or finding.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the vocabulary: names, where they are looked for, synonyms."""
    from latentseg.text.vocabulary import KINDS, vocabulary

    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind {kind!r}", fix=f"choose from {', '.join(KINDS)}")
    concepts = [concept for concept in vocabulary() if kind in (None, concept.kind)]
    if as_json:
        show_json([asdict(concept) for concept in concepts])
        return
    rows = [(c.name, c.kind, c.organ or c.region, ", ".join(c.synonyms)) for c in concepts]
    show_table(("name", "kind", "where", "synonyms"), rows)


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help='A prompt, such as "HCC".', show_default=False)],
    modality: Annotated[str, typer.Option(help="CT or MR, where the prompt does not say.")] = "CT",
    as_json: AsJson = False,
) -> None:
    """Explain what a prompt is read as, which phrases stand for it, and what is close to it."""
    from latentseg.text import read_prompt, shipped_bank

    prompt = read_prompt(text)
    scanner = prompt.modality or modality
    bank = shipped_bank()
    abnormal = prompt.abnormal_phrases(scanner)
    known = all(phrase in bank for phrase in abnormal)
    facts: dict[str, Any] = {
        "prompt": prompt.text,
        "read as": f"{prompt.concept.name} ({prompt.concept.kind})" if prompt.concept else "free text",
        "looked for in": prompt.organ or "the whole scan",
        "synonyms": ", ".join(prompt.concept.synonyms) if prompt.concept else "",
        "also asked for as": prompt.concept.broader if prompt.concept else "",
        "did you mean": ", ".join(prompt.similar),
        "abnormal": list(abnormal),
        "normal": list(prompt.normal_phrases(scanner)),
        "embeddings": "shipped" if known else "need an encoder",
        "close in meaning": _close(prompt.name),
    }
    if as_json:
        show_json(facts)
        return
    lines = {name: "; ".join(value) if isinstance(value, list) else value for name, value in facts.items()}
    show_facts({name: value for name, value in lines.items() if value})


@app.command("build-bank", hidden=True)
def build(out: Annotated[Path, typer.Argument(help="The .npz to write.")]) -> None:
    """Encode the vocabulary anew, after a change of it."""
    from latentseg.text import build_bank

    bank = build_bank()
    bank.save(out)
    typer.echo(f"{len(bank.phrases)} phrases by {bank.encoder} in {out}")


def _close(name: str, *, count: int = 5) -> list[str]:
    """The findings and organs whose embedding is nearest to that of a phrase."""
    from latentseg.text import embed, vocabulary

    names = [c.name for c in vocabulary() if c.kind in ("organ", "finding") and c.name != name]
    try:
        similarity = embed(names) @ embed([name])[0]
    except LatentsegError:
        return ["unknown without a text encoder: run `pip install 'latentseg[text]'`"]
    return [f"{names[i]} {similarity[i]:.2f}" for i in (-similarity).argsort()[:count]]

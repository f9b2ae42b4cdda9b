"""`latentseg prompts`."""

from __future__ import annotations

import json

import pytest

from latentseg.cli import main


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list", "--kind", "finding"]) == 0
    out = capsys.readouterr().out
    assert "hepatocellular carcinoma" in out
    assert "HCC" in out
    assert "esophagus  organ" not in out
    assert main(["prompts", "list", "--json"]) == 0
    assert {"modality", "organ"} <= {row["kind"] for row in json.loads(capsys.readouterr().out)}


def test_list_of_no_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list", "--kind", "bogus"]) == 2
    assert "Choose from modality" in capsys.readouterr().err


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "explain", "HCC"]) == 0
    out = capsys.readouterr().out
    assert "hepatocellular carcinoma (finding)" in out
    assert "an abnormal CT of the liver with hepatoma" in out
    assert "embeddings        shipped" in out
    assert main(["prompts", "explain", "livr tumour", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["read as"] == "free text"
    assert "liver tumor" in facts["did you mean"]
    assert facts["embeddings"] == "need an encoder"


def test_explain_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "explain", ""]) == 2
    assert "the prompt is empty" in capsys.readouterr().err

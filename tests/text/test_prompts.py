"""How prompts are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentseg.errors import UsageError
from latentseg.text.prompts import read_prompt
from latentseg.text.vocabulary import by_term, concept_named, is_abbreviation, normal_form, vocabulary


@pytest.mark.parametrize(
    ("text", "name", "organ", "modality"),
    [
        ("liver tumor", "liver tumor", "liver", None),
        ("  Liver   TUMORS ", "liver tumor", "liver", None),
        ("HCC", "hepatocellular carcinoma", "liver", None),
        ("the RCC", "renal cell carcinoma", "kidney", None),
        ("GBM on MRI", "glioblastoma", "brain", "MR"),
        ("CT scan of liver metastases", "liver metastasis", "liver", "CT"),
        ("find all lung_nodules", "lung nodule", "lung", None),
        ("IVC", "inferior vena cava", "inferior vena cava", None),
        ("kidneys", "kidney", "kidney", None),
        ("metastasis", "metastasis", "", None),
        ("soft-tissue sarcoma", "sarcoma", "soft tissue", None),
        ("liver tumour", "liver tumor", "liver", None),
        ("brain oedema", "edema", "brain", None),
        ("Liver Haemangiomas", "hepatic hemangioma", "liver", None),
        ("liver mets", "liver metastasis", "liver", None),
        ("tumor of the kidney on CT", "kidney tumor", "kidney", "CT"),
        ("metastases in the brain", "brain metastasis", "brain", None),
        ("stomach lesion", "gastric tumor", "stomach", None),
        ("mass in the brain", "brain tumor", "brain", None),
        ("oesophageal tumours", "esophageal tumor", "esophagus", None),
        ("thyroid mass", "thyroid nodule", "thyroid gland", None),
    ],
)
def test_known_prompts(text: str, name: str, organ: str, modality: str | None) -> None:
    prompt = read_prompt(text)
    assert (prompt.name, prompt.organ, prompt.modality, prompt.similar) == (name, organ, modality, ())


def test_unknown_prompts_are_kept_and_get_suggestions() -> None:
    prompt = read_prompt("livr tumour")
    assert prompt.concept is None
    assert prompt.name == "livr tumour"
    assert prompt.similar[0] == "liver tumor"
    assert read_prompt("xyzzy").similar == ()
    assert prompt.abnormal_phrases("CT") == ("an abnormal CT with livr tumour",)


@pytest.mark.parametrize(
    "text", ["liver tumor, kidney cancer", "HCC and kidney cancer", "kidney cancer/liver tumour", "HCC; RCC"]
)
def test_several_findings_are_several_prompts(text: str) -> None:
    with pytest.raises(UsageError, match="names 2 findings"):
        read_prompt(text)


def test_lists_of_one_finding_are_one_prompt() -> None:
    assert read_prompt("liver and its tumor").concept is None
    assert read_prompt("liver tumor, liver tumour").concept is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the prompt is empty"),
        ("   ", "the prompt is empty"),
        ("?!42", "holds no word"),
        ("tumor " * 60, "359 characters, at most 200"),
        ("MRI", "names no structure"),
        ("the CT scan", "names no structure"),
        ("abdomen", "names a region, not something to segment"),
        ("healthy", "names a state"),
    ],
)
def test_bad_prompts(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_prompt(text)
    assert "liver tumor" in str(error.value) or "one structure" in str(error.value)


@given(st.text(max_size=250))
def test_no_text_crashes_the_reader(text: str) -> None:
    try:
        prompt = read_prompt(text)
    except UsageError:
        return
    assert prompt.name
    assert prompt.abnormal_phrases("MR")


def test_phrases() -> None:
    prompt = read_prompt("HCC")
    assert prompt.abnormal_phrases("CT")[:2] == (
        "an abnormal CT of the liver with hepatocellular carcinoma",
        "an abnormal CT of the liver with hepatoma",
    )
    assert not any("HCC" in phrase for phrase in prompt.abnormal_phrases("CT"))
    assert prompt.normal_phrases("MR") == ("a normal MR of the liver", "a normal MR of the hepar")
    assert read_prompt("tumor").normal_phrases("CT") == ("a normal CT of the body",)


def test_the_vocabulary_is_consistent() -> None:
    terms = [normal_form(term) for concept in vocabulary() for term in concept.terms]
    repeated = {term for term in terms if terms.count(term) > 1}
    same = {
        term
        for term in repeated
        if len({c.name for c in vocabulary() if term in map(normal_form, c.terms)}) == 1
    }
    assert repeated == same  # a term names one concept alone
    assert all(by_term()[normal_form(c.name)] is c for c in vocabulary())
    for concept in vocabulary():
        if concept.kind == "finding" and concept.organ:
            assert concept_named(concept.organ).kind == "organ"
        if concept.broader:
            assert concept_named(concept.broader).kind == "finding"
            assert not concept_named(concept.broader).broader, "one that is looked for by its own name alone"
        if concept.kind == "organ":
            assert concept_named(concept.region).kind == "region"
        assert concept.spoken


def test_abbreviations() -> None:
    assert [is_abbreviation(t) for t in ("HCC", "ccRCC", "IVC", "liver", "CT scan", "Hodgkin")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]

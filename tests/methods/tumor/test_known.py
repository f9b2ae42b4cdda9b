"""What is said of how well a tumor is found, and which prompts are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentseg.backbones.registry import resolve
from latentseg.errors import ModelError, UsageError
from latentseg.imaging import Volume
from latentseg.methods.tumor.known import FILE, Measured, check_seen, check_shown, known_of, read_known
from latentseg.text import read_prompt
from latentseg.text.vocabulary import concept_named

LUNG = Measured(
    held_out="patients",
    what="volumes",
    scans=5,
    patients=5,
    dice=0.214,
    lesions=12,
    found=4,
    marked=5,
    healthy=10,
    alarmed=1,
    card="docs/models/compact.md",
)


def test_a_measured_finding_has_its_figures_in_one_line() -> None:
    line = known_of(read_prompt("cancer of the lung"), {"lung tumor": LUNG})
    assert line == (
        "lung tumor: mean Dice 21 % on 5 volumes of 5 patients that no training saw, 4 of 12 lesions found; "
        "something was marked in 1 of 10 healthy people (docs/models/compact.md)"
    )


def test_where_nothing_is_outlined_there_is_no_dice() -> None:
    seen = LUNG.model_copy(update={"dice": None, "scans": 2, "patients": 2, "marked": 1})
    assert str(seen).startswith(
        "something marked in 1 of 2 volumes of 2 patients that no training saw, where it is not outlined; "
    )


def test_a_finding_without_a_figure_says_so_and_names_what_was_measured_of_its_organ() -> None:
    assert known_of(read_prompt("kidney tumor"), {"lung tumor": LUNG}) == (
        "kidney tumor: nothing was measured of how well this is found"
    )
    near = known_of(read_prompt("lung nodule"), {"lung tumor": LUNG})
    assert near.startswith(
        "lung nodule: nothing was measured of how well this is found; lung tumor: mean Dice"
    )


@pytest.mark.parametrize("text", ["prostate cancer", "wart", "thyroid nodule"])
def test_what_the_model_does_not_see_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not see where") as error:
        check_seen(read_prompt(text), {"lung tumor": LUNG}, organs=("liver",))
    assert "a tumor of liver, lung, or show examples" in str(error.value.fix)


@pytest.mark.parametrize("text", ["liver tumor", "lung cancer", "tumor"])
def test_what_it_sees_or_measured_or_what_may_be_anywhere_is_not(text: str) -> None:
    check_seen(read_prompt(text), {"lung tumor": LUNG}, organs=("liver",))


def test_weights_without_organs_refuse_nothing() -> None:
    check_seen(read_prompt("prostate cancer"), {}, organs=())


def test_the_shipped_figures_are_of_findings_that_prompts_may_name() -> None:
    known = read_known(resolve("compact"))
    assert {"liver tumor", "lung tumor", "kidney tumor", "brain tumor"} <= set(known)
    for name, figures in known.items():
        assert concept_named(name).kind == "finding"
        assert figures.dice is None or 0 <= figures.dice <= 1
        assert figures.found <= figures.lesions
        assert figures.alarmed <= figures.healthy


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_known(tmp_path) == {}
    (tmp_path / FILE).write_text(json.dumps({"lung tumor": {"dice": "good"}}), encoding="utf-8")
    with pytest.raises(ModelError, match="unreadable results of tumors"):
        read_known(tmp_path)


def test_a_modality_in_which_no_training_showed_a_tumor_is_asked_for_confirmation() -> None:
    known = {"lung tumor": LUNG.model_copy(update={"modalities": ("CT",)})}
    prompt = read_prompt("lung nodule")
    scan = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4), modality="MR")
    with pytest.raises(UsageError, match=r"no training showed tumors of the lung in MR.*--anyway"):
        check_shown(prompt, scan, known=known)
    check_shown(prompt, scan, known={"lung tumor": LUNG})
    check_shown(read_prompt("liver tumor"), scan, known=known)
    for modality in ("CT", "unknown"):
        check_shown(prompt, replace(scan, modality=modality), known=known)

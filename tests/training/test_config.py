"""Configurations: what is wrong in a YAML file is named; the shipped ones keep test patients out."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.errors import UsageError
from latentseg.training.autoencoder import AutoencoderOptions
from latentseg.training.config import read_config
from latentseg.training.fewshot.sdfsmis import FewShotOptions
from latentseg.training.pack import PackOptions

CONFIGS = Path(__file__).parents[2] / "configs"
LOOP = "steps: 3, learning_rate: 0.1"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"loop: {{{LOOP}, stepz: 4}}", "loop.stepz"),
        (f"loop: {{{LOOP}}}\nbach: 3", "bach"),
        ("loop: {steps: many, learning_rate: 0.1}", "loop.steps"),
        ("loop: {steps: 0, learning_rate: 0.1}", "loop.steps"),
        ("loop: {steps: 3}", "loop.learning_rate"),
        ("", "loop"),
        ("- a\n- b", "the file"),
        ("loop: {steps: 3", "no YAML"),
        ("loop:\n\t- 3", "no YAML"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, seen: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_config(path, AutoencoderOptions)
    message = str(caught.value)
    assert seen in message
    assert str(path) in message
    assert "\n" not in message


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the configuration.*none\.yaml"):
        read_config(tmp_path / "none.yaml", AutoencoderOptions)
    with pytest.raises(UsageError, match="cannot read the configuration"):
        read_config(tmp_path, AutoencoderOptions)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UsageError, match="no YAML"):
        read_config(tmp_path / "picture.yaml", AutoencoderOptions)


def test_the_shipped_configurations_are_valid() -> None:
    assert read_config(CONFIGS / "autoencoder.yaml", AutoencoderOptions).loop.steps > 100
    assert read_config(CONFIGS / "fewshot.yaml", FewShotOptions).loop.steps > 100


def test_shipped_weights_see_neither_test_patients_nor_test_organs() -> None:
    sources = read_config(CONFIGS / "pack.yaml", PackOptions).sources
    (sabs,) = (source for source in sources if source.name == "sabs")
    assert {f"image_{i}.nii.gz" for i in range(7)} <= set(sabs.exclude)
    spleen, kidney_right, kidney_left, liver = 1, 2, 3, 6
    assert not {spleen, kidney_right, kidney_left, liver} & sabs.keep_labels.keys()
    globs = " ".join(source.images.lower() for source in sources)
    assert not any(name in globs for name in ("chaos", "acdc", "kits", "lung1"))

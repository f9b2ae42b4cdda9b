"""A header that contradicts the picture: what `inspect`, `segment` and `batch` say, and how it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentseg.batch.cases import Case
from latentseg.batch.work import read_case
from latentseg.cli import main
from latentseg.errors import LatentsegWarning
from latentseg.imaging import Volume, write_like
from latentseg.imaging import orientation as module
from latentseg.imaging.orientation import CODES, OrientationCheck
from latentseg.methods.fewshot.support import Support

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scan that says RAS and, so the picture, runs RPS."""

    def check(volume: Volume) -> OrientationCheck:
        shares = dict.fromkeys(CODES, 0.0) | {"RPS": 0.99, "RAS": 0.01}
        return OrientationCheck(volume.orientation or volume.axis_codes, shares)

    monkeypatch.setattr(module, "check_orientation", check)
    array = np.random.default_rng(0).integers(0, 900, (16, 18, 6)).astype(np.int16)
    like = Volume(array, np.diag([9.0, 9.0, 20.0, 1.0]))
    mask = np.zeros(array.shape, np.uint8)
    mask[3:9, 4:12, 2:5] = 1
    write_like(mask, like=like, path=tmp_path / "a_mask.nii.gz")
    return write_like(array, like=like, path=tmp_path / "a.nii.gz", kind="image")


def test_inspect_warns_and_names_the_option(mirrored: Path, capsys: Capture) -> None:
    assert main(["inspect", str(mirrored), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["axis_codes"] == "RAS"
    assert facts["axis_codes_of_picture"] == "RPS (99 %)"
    (warning,) = (line for line in facts["warnings"] if "axes run" in line)
    assert "RAS, the picture says RPS (99 % sure): front and back are swapped" in warning
    assert warning.endswith("Give `segment` --orientation auto, or --orientation RPS")


def test_examples_are_warned_of_unless_their_orientation_is_given(mirrored: Path) -> None:
    pair = [(mirrored, mirrored.with_name("a_mask.nii.gz"))]
    with pytest.warns(LatentsegWarning, match="Give --orientation auto, or RPS"):
        Support.from_files(pair, name="liver")
    with pytest.warns(LatentsegWarning, match="The picture is followed"):
        Support.from_files(pair, name="liver", orientation="auto")


@pytest.mark.filterwarnings("error::latentseg.errors.LatentsegWarning")
def test_an_orientation_that_is_given_is_believed(mirrored: Path) -> None:
    Support.from_files([(mirrored, mirrored.with_name("a_mask.nii.gz"))], name="liver", orientation="RPS")


def test_a_batch_notes_it_for_the_case(mirrored: Path) -> None:
    (note,) = (line for line in read_case(Case("a", mirrored)).notes if "axes run" in line)
    assert note.endswith("Give --orientation auto, or RPS in the column 'orientation' of a table of cases")
    mended = read_case(Case("a", mirrored, orientation="auto"))
    assert mended.scan.orientation == "RPS"
    assert mended.scan.axis_codes == "RAS"


def test_no_such_orientation(mirrored: Path, capsys: Capture) -> None:
    arguments = ["segment", str(mirrored), "--prompt", "liver tumor", "--orientation", "XYZ"]
    assert main(arguments) == 3
    assert "'XYZ' is no orientation" in capsys.readouterr().err

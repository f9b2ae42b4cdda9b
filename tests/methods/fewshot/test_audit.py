"""`support check`: leave-one-out, and labels that have no name or no example."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.errors import GeometryError
from latentseg.imaging import write_like
from latentseg.methods.fewshot.audit import AuditRow, _remark, audit
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.phantom.bodies import Phantom


def add(folder: Path, name: str, phantom: Phantom, keep: tuple[int, ...]) -> None:
    labels = np.where(np.isin(phantom.labels.array, keep), phantom.labels.array, 0).astype(np.uint8)
    write_like(phantom.image.array, like=phantom.image, path=folder / f"{name}.nii.gz", kind="image")
    write_like(labels, like=phantom.labels, path=folder / f"{name}_mask.nii.gz")


def test_each_example_is_found_from_the_others(
    segmenter: FewShotSegmenter, shown: Phantom, searched: Phantom, tmp_path: Path
) -> None:
    add(tmp_path, "a", shown, (1, 4))
    add(tmp_path, "b", searched, (1, 9))
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1, "spleen": 4, "tail": 77}), encoding="utf-8")
    rows = {(row.target, row.case): row for row in audit(tmp_path, segmenter)}
    assert set(rows) == {("liver", "a"), ("liver", "b"), ("spleen", "a"), ("tail", "-"), ("(no name)", "b")}
    truth = shown.labels.array == 1
    support = ls.Support.from_volumes(searched.image, searched.labels, name="liver", label=1)
    found = segmenter(ls.read(tmp_path / "a.nii.gz"), [support])["liver"].mask
    expected = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert rows["liver", "a"].dice == pytest.approx(expected)
    assert rows["liver", "a"].volume_ml == pytest.approx(truth.sum() * shown.image.voxel_volume_ml)
    assert rows["liver", "a"].slices == truth.any((0, 1)).sum()
    assert rows["spleen", "a"].dice is None
    assert "only example" in rows["spleen", "a"].remark
    assert "no example holds label 77" in rows["tail", "-"].remark
    assert rows["(no name)", "b"].remark == "no name is given for label 9"


def test_an_unnamed_folder_has_one_target(
    segmenter: FewShotSegmenter, shown: Phantom, tmp_path: Path
) -> None:
    add(tmp_path, "a", shown, (1,))
    (row,) = audit(tmp_path, segmenter)
    assert row.target == tmp_path.name


def test_other_grids_are_named(segmenter: FewShotSegmenter, shown: Phantom, tmp_path: Path) -> None:
    add(tmp_path, "a", shown, (1,))
    labels = replace(shown.labels, affine_ras_mm=np.diag([2.0, 2, 2, 1]), header=None)
    write_like(labels.array, like=labels, path=tmp_path / "a_mask.nii.gz")
    with pytest.raises(GeometryError, match=r"a\.nii\.gz and .*a_mask\.nii\.gz"):
        audit(tmp_path, segmenter)


def test_remarks() -> None:
    volumes = {"a": 100.0, "b": 110.0, "c": 10.0}
    rows = _remark([AuditRow("x", case, volume, 1, 0.9, "") for case, volume in volumes.items()])
    assert [bool(row.remark) for row in rows] == [False, False, True]
    assert "100.0 ml" in rows[2].remark
    (row,) = _remark([AuditRow("x", "a", 1.0, 1, 0.1, "")])
    assert "not found from the others" in row.remark


@pytest.mark.parametrize(
    ("dices", "odd"),
    [
        ([0.85, 0.86, 0.55], [2]),
        ([0.8, 0.5], [1]),
        ([0.9, 0.9, 0.4, 0.4], [2, 3]),
        ([0.9, 0.88, 0.91, 0.4, 0.45, 0.9], [3, 4]),
        ([0.6, 0.55, 0.62, 0.5], []),
        ([0.9], []),
        ([0.1, 0.9, None], [0, 2]),
    ],
)
def test_every_pair_far_below_the_others_is_pointed_out(dices: list[float | None], odd: list[int]) -> None:
    rows = _remark([AuditRow("x", str(n), 100.0, 1, dice, "") for n, dice in enumerate(dices)])
    assert [n for n, row in enumerate(rows) if row.remark] == odd


def test_labels_without_a_name_are_one_line(
    segmenter: FewShotSegmenter, shown: Phantom, searched: Phantom, tmp_path: Path
) -> None:
    add(tmp_path, "a", shown, (1, 4, 9))
    add(tmp_path, "b", searched, (1, 9))
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1}), encoding="utf-8")
    (row,) = [row for row in audit(tmp_path, segmenter) if row.target == "(no name)"]
    assert (row.case, row.remark) == ("2 examples", "no name is given for labels 4 and 9")
    expected = sum(
        float(np.isin(phantom.labels.array, keep).sum()) * phantom.image.voxel_volume_ml
        for phantom, keep in ((shown, (4, 9)), (searched, (9,)))
    )
    assert row.volume_ml == pytest.approx(expected)


def test_regions_are_audited(segmenter: FewShotSegmenter, shown: Phantom, tmp_path: Path) -> None:
    add(tmp_path, "a", shown, (1, 4))
    (tmp_path / "labels.json").write_text(json.dumps({"both": [1, 4], "core": [4]}), encoding="utf-8")
    rows = {row.target: row for row in audit(tmp_path, segmenter)}
    assert set(rows) == {"both", "core"}
    voxels = np.isin(shown.labels.array, (1, 4)).sum()
    assert rows["both"].volume_ml == pytest.approx(voxels * shown.image.voxel_volume_ml)

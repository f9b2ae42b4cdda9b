"""EP1 and EP2 against examples written by hand, and whole runs on a synthetic tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.baselines import MaskCopy
from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.datasets.base import Dataset
from latentseg.evaluation.protocols import EP1, EP2, run_protocol
from latentseg.evaluation.slices import (
    ScanAnswer,
    SupportSlices,
    chunk_bounds,
    segment_by_chunks,
    support_positions,
)


@dataclass
class Recorder:
    """Answers with the number of the chunk and remembers what it was given."""

    name: str = "recorder"
    calls: list[tuple[float | list[float], list[float]]] = field(default_factory=list)

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        shown = support.images[:, 0, 0].tolist()
        self.calls.append((shown[0] if len(shown) == 1 else shown, query_slices[:, 0, 0].tolist()))
        return np.full(query_slices.shape, len(self.calls), np.float32)


@pytest.mark.parametrize(
    ("slices", "bounds"),
    [
        (9, [(0, 3), (3, 6), (6, 9)]),
        (10, [(0, 3), (3, 6), (6, 10)]),
        (5, [(0, 1), (1, 3), (3, 5)]),
        (2, [(0, 0), (0, 1), (1, 2)]),
    ],
)
def test_chunks(slices: int, bounds: list[tuple[int, int]]) -> None:
    assert chunk_bounds(slices) == bounds


@pytest.mark.parametrize(
    ("slices", "positions"), [(12, [2, 6, 10]), (10, [1, 5, 8]), (3, [0, 1, 2]), (1, [0, 0, 0])]
)
def test_support_positions(slices: int, positions: list[int]) -> None:
    assert support_positions(slices) == positions


def test_support_slice_k_serves_chunk_k() -> None:
    method = Recorder()
    slices = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    support = SupportSlices(100 + slices[:3], np.ones((3, 2, 2), bool))
    answer = segment_by_chunks(method, supports=[support], query_slices=slices)
    assert method.calls == [(100, [0, 1, 2]), (101, [3, 4, 5]), (102, [6, 7, 8, 9])]
    assert answer[:, 0, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_every_chunk_may_be_shown_all_support_slices() -> None:
    shown: list[int] = []

    class Counting:
        name = "counting"

        def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
            shown.append(len(support.images))
            return np.zeros_like(query_slices)

    support = SupportSlices(np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), bool))
    slices = np.zeros((6, 4, 4), np.float32)
    for every in (True, False):
        segment_by_chunks(Counting(), supports=[support], query_slices=slices, every_chunk=every)
    assert shown == [3, 3, 3, 1, 1, 1]


def test_with_more_shots_slice_k_of_every_scan_serves_chunk_k() -> None:
    method = Recorder()
    slices = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    scans = [SupportSlices(base + slices[:3], np.ones((3, 2, 2), bool)) for base in (100, 200)]
    segment_by_chunks(method, supports=scans, query_slices=slices)
    assert method.calls == [([100, 200], [0, 1]), ([101, 201], [2, 3]), ([102, 202], [4, 5])]


def test_a_wrong_answer_of_a_method_is_refused() -> None:
    class Broken:
        name = "broken"

        def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
            return query_slices[:, :1]

    support = SupportSlices(np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), bool))
    with pytest.raises(InputError, match="broken"):
        segment_by_chunks(Broken(), supports=[support], query_slices=np.zeros((6, 4, 4), np.float32))


def abdomen(shift: int) -> NDArray[np.uint8]:
    """A label map (I, J, K) in LAS: box of a liver (CHAOS label 1) in slices 1-6, spleen (4) in 3-5."""
    labels = np.zeros((24, 20, 9), np.uint8)
    labels[14:22, 4 + shift : 12 + shift, 1:7] = 1
    labels[2:6, 4:10, 3:6] = 4
    return labels


def write(root: Path, dataset: Dataset, *, shifts: dict[str, int]) -> Dataset:
    folder = root / dataset.folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    to_own = {1: dataset.label_of["liver"], 4: dataset.label_of["spleen"]}
    for case, shift in shifts.items():
        labels = abdomen(shift)
        own = np.select([labels == 1, labels == 4], [to_own[1], to_own[4]], 0).astype(np.uint8)
        image = (labels * 40 + rng.integers(5, 20, labels.shape)).astype(np.uint8)
        for kind, array in (("image", image), ("label", own)):
            nib.save(nib.Nifti1Image(array, np.diag([-2.0, 2.0, 5.0, 1.0])), folder / f"{kind}_{case}.nii.gz")
    return dataset.at(root)


@pytest.fixture
def chaos(tmp_path: Path) -> Dataset:
    return write(tmp_path, CHAOS, shifts={"1": 0, "2": 4, "3": 0, "5": 8, "8": 0})


def test_run_within_one_data_set(chaos: Dataset) -> None:
    protocol = EP1(chaos, organs=("liver", "spleen"), size=24)
    outcomes = list(run_protocol(protocol, methods=[MaskCopy()]))
    dice = {(o.row.case, o.row.organ): o.row.dice for o in outcomes}
    assert list(dict.fromkeys(case for case, _ in dice)) == [
        "1",
        "2",
        "5",
        "8",
    ]  # the third scan is the support
    assert dice["1", "liver"] == dice["8", "spleen"] == 1.0
    assert dice["2", "liver"] == pytest.approx(0.5)  # boxes of 8 rows, 4 of them shared
    assert dice["5", "liver"] == 0.0
    row = outcomes[0].row
    assert (row.slices, row.support_case, row.fold) == (6, "3", 0)
    assert row.truth_volume_ml == pytest.approx(8 * 8 * 6 * 0.02)


def test_outcome_carries_pictures_and_a_mask_on_the_grid_of_the_scan(chaos: Dataset) -> None:
    outcome = next(run_protocol(EP1(chaos, organs=("liver",), size=24), methods=[MaskCopy()]))
    assert outcome.mask.shape == (24, 20, 9)
    assert outcome.probability.shape == outcome.truth.shape == (9, 24, 24)
    assert outcome.support.images.shape == (3, 24, 24)
    assert np.array_equal(outcome.mask, outcome.query.case.mask("liver"))
    assert np.flatnonzero(outcome.probability.any(axis=(1, 2))).tolist() == [1, 2, 3, 4, 5, 6]


def test_last_scan_as_support(chaos: Dataset) -> None:
    assert EP1(chaos, support_index=-1).cases() == ((chaos, "8"), ["1", "2", "3", "5"])


def test_across_data_sets_the_queries_stay_the_same(chaos: Dataset, tmp_path: Path) -> None:
    sabs = write(tmp_path, SABS, shifts={str(case): 0 for case in range(7)})
    protocol = EP1(chaos, support_dataset=sabs, organs=("liver",), size=24)
    assert protocol.cases() == ((sabs, "2"), ["1", "2", "5", "8"])
    rows = [outcome.row for outcome in run_protocol(protocol, methods=[MaskCopy()])]
    assert {row.support_dataset for row in rows} == {"SABS"}
    assert rows[0].dice == 1.0


def test_extra_shots_never_show_the_query_and_leave_the_queries_alone(chaos: Dataset) -> None:
    assert EP1(chaos, shots=3).cases() == EP1(chaos).cases()
    assert EP1(chaos, shots=3).supports("1") == ["3", "5", "8"]
    assert EP1(chaos, shots=3).supports("8") == ["3", "5", "1"]
    assert EP1(chaos, shots=5).supports("8") == ["3", "5", "1", "2", "10"]  # 10 follows the fold
    assert EP1(chaos, fold=4, shots=5).supports("38") == ["37", "39", "1", "36", "2"]
    assert EP1(chaos, support_index=-1, shots=2).supports("1") == ["8", "2"]


def test_shots_that_are_not_on_this_machine_are_named(chaos: Dataset) -> None:
    with pytest.raises(InputError, match=r"5-shot support lacks 1 of 6 cases \(10\)"):
        EP1(chaos, shots=5).check()
    with pytest.raises(UsageError, match=r"20 shots of CHAOS are not possible: shots. Choose from 1 to 19"):
        EP1(chaos, shots=20).check()


def test_run_with_two_shots(chaos: Dataset) -> None:
    method = Recorder()
    protocol = EP1(chaos, organs=("liver",), size=24, shots=2)
    rows = [outcome.row for outcome in run_protocol(protocol, methods=[method], queries=1)]
    assert [len(shown) for shown, _ in method.calls] == [2, 2, 2]
    assert rows[0].support_case == "3 5"
    assert rows[0].shots == 2


def test_the_cross_domain_setting_has_folds_of_its_own(tmp_path: Path) -> None:
    sabs = write(tmp_path, SABS, shifts={str(case): 0 for case in range(7)})
    assert EP1(sabs).cases()[1] == ["0", "1", "3", "4", "5", "6"]
    assert EP1(sabs, setting="cross-domain").cases() == ((sabs.across_domains(), "2"), ["0", "1", "3", "4"])


@dataclass
class Fixed:
    """Answers the same probabilities `(S, 24, 24)` whatever it is shown, and keeps masks of 100 voxels."""

    chance: NDArray[np.float32]
    name: str = "fixed"

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        assert len(support.images) == 1
        return self.chance[: len(query_slices)]

    def scan(
        self,
        support: SupportSlices,
        query_slices: NDArray[np.float32],
        *,
        spacing_mm: tuple[float, float, float],
    ) -> ScanAnswer:
        assert spacing_mm[0] == 5.0
        chance = self(support, query_slices)
        return ScanAnswer(chance, chance.max((1, 2)))

    def decide(self, answer: ScanAnswer, fine: NDArray[np.float32]) -> NDArray[np.bool_]:
        mask = fine >= 0.5
        return mask if mask.sum() >= 100 else np.zeros_like(mask)


def test_whole_volumes_count_what_is_found_where_the_organ_is_not(chaos: Dataset) -> None:
    chance = np.zeros((9, 24, 24), np.float32)
    chance[:, :, :] = np.array([0.2, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.1, 0.55])[:, None, None]
    protocol = EP2(chaos, organs=("liver",), size=24)
    (outcome,) = run_protocol(protocol, methods=[Fixed(chance)], queries=1)
    row = outcome.row
    assert row.protocol == "EP2"
    assert (row.slices, row.absent_slices, row.false_slices) == (9, 3, 1)  # the liver is on slices 1 to 6
    assert row.false_voxels == 24 * 20  # all of one slice
    assert row.slice_auroc == 1.0
    assert row.presence == pytest.approx(0.6)
    # the three slices without the liver are asked again, and get the answers 0.2, 0.6, 0.6
    assert row.absent_presence == pytest.approx(0.6)
    assert row.absent_found is True
    truth = 8 * 8 * 6
    assert (row.both, row.only_prediction) == (truth, 24 * 20 * 7 - truth)
    assert 0 < row.nsd < 1
    assert row.hd95_mm > row.assd_mm > 0


def test_whole_scans_are_shown_with_their_support(chaos: Dataset) -> None:
    shown: list[SupportSlices] = []

    class Watcher(Fixed):
        def scan(
            self,
            support: SupportSlices,
            query_slices: NDArray[np.float32],
            *,
            spacing_mm: tuple[float, float, float],
        ) -> ScanAnswer:
            shown.append(support)
            return super().scan(support, query_slices, spacing_mm=spacing_mm)

    method = Watcher(np.zeros((9, 24, 24), np.float32))
    list(run_protocol(EP2(chaos, organs=("liver",), size=24), methods=[method], queries=1))
    (scan,) = shown[0].scans
    assert scan.images.shape == (9, 24, 24)
    assert np.flatnonzero(scan.masks.any((1, 2))).tolist() == [1, 2, 3, 4, 5, 6]
    assert scan.places_mm.tolist() == [5.0 * n for n in range(9)]
    assert len(shown) == 2  # the whole scan, and the slices without the organ
    recorder = Recorder()
    list(run_protocol(EP1(chaos, organs=("liver",), size=24), methods=[recorder], queries=1))
    assert len(recorder.calls) == 3  # slices known to hold the organ come without scans


def test_the_rule_of_a_method_decides(chaos: Dataset) -> None:
    chance = np.zeros((9, 24, 24), np.float32)
    chance[4, :5, :5] = 0.9
    (outcome,) = run_protocol(EP2(chaos, organs=("liver",), size=24), methods=[Fixed(chance)], queries=1)
    assert not outcome.mask.any()
    assert outcome.row.absent_found is False
    assert (outcome.row.dice, outcome.row.nsd) == (0.0, 0.0)
    assert outcome.row.hd95_mm == pytest.approx(np.linalg.norm([24 * 2, 20 * 2, 9 * 5]))


def test_a_scan_without_the_organ_counts_in_ep2_only(chaos: Dataset) -> None:
    path = chaos.path / "label_1.nii.gz"
    labels = np.asarray(nib.load(path).dataobj).copy()
    labels[labels == 4] = 0
    nib.save(nib.Nifti1Image(labels, nib.load(path).affine), path)
    found = {"organs": ("spleen",), "size": 24}
    assert list(run_protocol(EP1(chaos, **found), methods=[MaskCopy()], queries=1)) == []
    silent = Fixed(np.zeros((9, 24, 24), np.float32))
    (outcome,) = run_protocol(EP2(chaos, **found), methods=[silent], queries=1)
    assert outcome.row.dice == 1.0
    assert outcome.row.presence is None
    assert outcome.row.absent_presence == 0.0


def test_the_middle_slice_is_the_support_of_a_whole_volume(chaos: Dataset) -> None:
    (outcome,) = run_protocol(EP2(chaos, organs=("spleen",), size=24), methods=[MaskCopy()], queries=1)
    assert outcome.support.images.shape == (1, 24, 24)
    assert outcome.row.false_slices == outcome.row.absent_slices == 6  # a copy is everywhere
    assert outcome.row.slice_auroc == 0.5
    protocol = EP2(chaos, organs=("spleen",), size=24, support_slices=3)
    (outcome,) = run_protocol(protocol, methods=[MaskCopy()], queries=1)
    assert outcome.support.images.shape == (3, 24, 24)


def test_finished_rows_are_not_made_again(chaos: Dataset) -> None:
    protocol = EP1(chaos, organs=("liver", "spleen"), size=24)
    rows = [outcome.row for outcome in run_protocol(protocol, methods=[MaskCopy()])]
    done = {row.key for row in rows if (row.case, row.organ) != ("5", "spleen")}
    (again,) = run_protocol(protocol, methods=[MaskCopy()], done=done)
    assert again.row in rows
    method = Recorder()
    list(run_protocol(protocol, methods=[MaskCopy(), method], done={row.key for row in rows}))
    assert len(method.calls) == 4 * 2 * 3


def test_unknown_organs_are_refused_before_the_work(chaos: Dataset) -> None:
    with pytest.raises(UsageError, match="no organ 'toe': CHAOS"):
        EP1(chaos, organs=("toe",)).check()
    with pytest.raises(UsageError, match="0 support slices"):
        EP2(chaos, support_slices=0).check()


def test_a_support_without_the_organ_is_refused(chaos: Dataset) -> None:
    with pytest.raises(InputError, match="no right_kidney: CHAOS case 3"):
        list(run_protocol(EP1(chaos, size=24), methods=[MaskCopy()]))


def test_a_position_outside_the_fold_is_refused(chaos: Dataset) -> None:
    with pytest.raises(UsageError, match="no support scan 5"):
        EP1(chaos, support_index=5).cases()

"""One organ of one query scan, segmented by one method: what is written to disk for each case."""

from __future__ import annotations

from dataclasses import dataclass

from latentseg.metrics.overlap import Overlap

RowKey = tuple[str | int, ...]


@dataclass(frozen=True)
class Row:
    """One line of the CSV; the fields from `weights` on are `None` or 0 where they do not apply.

    Attributes:
        protocol: Evaluation protocol, `"EP1"` or `"EP2"`.
        dataset: Data set of the query scan.
        fold: Fold of the query scan.
        case: Case id of the query scan.
        support_dataset: Data set of the support; another one than `dataset` across domains.
        support_index: Position of the (first) support scan in its fold.
        support_case: Case ids of the support scans, joined by spaces.
        organ: What was segmented.
        method: What segmented it.
        slices: Slices given to the method.
        both: Voxels of the original grid in prediction and truth.
        only_prediction: Voxels in the prediction alone.
        only_truth: Voxels in the truth alone.
        voxel_volume_ml: Volume of one voxel in milliliters.
        nsd: Normalized surface Dice at 2 mm.
        hd95_mm: 95 % Hausdorff distance.
        assd_mm: Average symmetric surface distance.
        setting: What the training may have seen, see `settings`.
        shots: Support scans.
        support_slices: Slices of each support scan.
        weights: Fingerprint of the method's weights.
        seen: Whether the weights' manifest lists the query scan as training data.
        presence: Score of the whole scan, where it holds the organ (EP2).
        absent_presence: Score of the slices of the scan that do not hold the organ, as a scan of its own.
        absent_found: Whether the method found anything in that scan.
        absent_slices: Slices that do not hold the organ.
        false_slices: Those of them on which the mask of the whole scan has a voxel.
        false_voxels: Voxels of the original grid in the prediction on those slices.
        slice_auroc: How well slices with the organ score above slices without, within the scan.
    """

    protocol: str
    dataset: str
    fold: int
    case: str
    support_dataset: str
    support_index: int
    support_case: str
    organ: str
    method: str
    slices: int
    both: int
    only_prediction: int
    only_truth: int
    voxel_volume_ml: float
    nsd: float = 0.0
    hd95_mm: float = 0.0
    assd_mm: float = 0.0
    setting: str = "1"
    shots: int = 1
    support_slices: int = 3
    weights: str = ""
    seen: bool = False
    presence: float | None = None
    absent_presence: float | None = None
    absent_found: bool | None = None
    absent_slices: int = 0
    false_slices: int = 0
    false_voxels: int | None = None
    slice_auroc: float | None = None

    @property
    def overlap(self) -> Overlap:
        """The voxel counts of this row."""
        return Overlap(self.both, self.only_prediction, self.only_truth)

    @property
    def dice(self) -> float:
        """Dice of this row in [0, 1]."""
        return self.overlap.dice

    @property
    def iou(self) -> float:
        """Intersection over union of this row in [0, 1]."""
        return self.overlap.iou

    @property
    def volume_ml(self) -> float:
        """Predicted volume in milliliters."""
        return (self.both + self.only_prediction) * self.voxel_volume_ml

    @property
    def truth_volume_ml(self) -> float:
        """True volume in milliliters."""
        return (self.both + self.only_truth) * self.voxel_volume_ml

    @property
    def one_is_empty(self) -> bool:
        """Whether just one of prediction and truth is empty: its distances are the diagonal of the grid."""
        return (self.both + self.only_prediction == 0) != (self.both + self.only_truth == 0)

    @property
    def patient(self) -> str:
        """Who was scanned: the unit of averages and of the bootstrap."""
        return f"{self.dataset} {self.case}"

    @property
    def group(self) -> RowKey:
        """What rows must share to stand in one line of a table, folds and patients put together."""
        return (
            *(self.protocol, self.setting, self.dataset, self.support_dataset),
            *(self.support_index, self.shots, self.support_slices, self.method),
        )

    @property
    def key(self) -> RowKey:
        """What tells a row from every other of a run."""
        return (*self.group, self.fold, self.case, self.support_case, self.organ)

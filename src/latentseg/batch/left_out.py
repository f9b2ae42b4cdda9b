"""Recognizes files in a cohort that are not scans: masks beside the scans, and results of this program."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from latentseg.errors import InputError, caution, noted
from latentseg.imaging.files import MASK_ENDINGS, case_name, is_seg_nrrd

IMAGE_FOLDERS = ("images", "imagestr", "imagests", "imagesval")
MASK_FOLDERS = ("labels", "masks", "labelstr", "labelsts", "labelsval")
MASK_WORDS = re.compile(
    r"(?<![a-z])(masks?|labels?|segs?|dseg|segmentations?|roi|annotations?|ground_?truth|gt)(?![a-z])"
)
"""Words in the names of files that may be masks; their voxels decide."""


def without_masks(images: Sequence[Path]) -> list[Path]:
    """The images that are scans; what is left out is counted in a warning.

    A mask is what the rules of support folders call so: ``p1_mask.nii.gz`` (``_label``, ``_seg``) beside
    ``p1.nii.gz``, a file of Slicer's ``.seg.nrrd``, and a file of a folder of labels beside one of images.
    Where only a word in the name speaks of a mask, the voxels decide. Results of this program are left out
    as well.
    """
    names = {(path.parent, case_name(path).casefold()) for path in images}
    masks = [path for path in images if _is_mask(path, names) or _is_result(path)]
    if masks:
        what = f"{len(masks)} of {len(images)} images are left out as masks or results"
        caution(f"{what}, such as {masks[0]}", stacklevel=4)
    left_out = set(masks)
    return [path for path in images if path not in left_out]


def _is_mask(path: Path, names: set[tuple[Path, str]]) -> bool:
    name = case_name(path).casefold()
    stems = [name.removesuffix(ending) for ending in MASK_ENDINGS if name.endswith(ending)]
    if is_seg_nrrd(path) or any((path.parent, stem) in names for stem in stems):
        return True
    if path.parent.name.lower() in MASK_FOLDERS:
        beside = {folder.parent for folder, _ in names if folder.name.lower() in IMAGE_FOLDERS}
        if path.parent.parent in beside:
            return True
    return bool(MASK_WORDS.search(name)) and _holds_labels(path)


def _is_result(path: Path) -> bool:
    """Whether a file lies among the results of a case, under the name that they have."""
    case = path.parent.name
    written = re.match(rf"{re.escape(case)}_(seg|prob|preview|combined)|.*_desc-latentseg_", path.name)
    return bool(written) and (path.parent / f"{case}_stats.json").exists()


def _holds_labels(path: Path) -> bool:
    """Whether an image has the few values of a label map; one that cannot be read is no mask yet."""
    from latentseg.imaging.contents import label_count
    from latentseg.imaging.formats import read_labels

    try:
        with noted([]):  # what is odd about a scan is said when it is segmented
            return label_count(read_labels(path)) > 0
    except InputError:
        return False

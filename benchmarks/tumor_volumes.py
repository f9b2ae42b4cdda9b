"""Tumors by name on patients that no training saw: volumes, and pictures where there is nothing else.

Usage: ``python benchmarks/tumor_volumes.py [--finding lung,brain,glioma] [--weights FILE] [--output FILE]
[--known FILE]``, of all findings when left out; data through ``LATENTSEG_DATA``.

Patients are those that ``configs/split.yaml`` keeps back, and non-commercial ones: chests with outlined
nodules or a tumor (LIDC-IDRI, 4D-Lung, NSCLC-Radiomics), whole heads with gliomas in four contrasts (BraTS,
and lower-grade ones in two contrasts with the skull, ``lower_grade_heads.py``), brain slices (Cheng), asked
for as brain tumors and by their kind, kidney slices (KiTS19, ``kidney_slices.py``), liver slices with masses
that a rule outlines (MSD Task03), these masses put into whole livers of other people
(``masses_in_livers.py``), two abdomens of collections of liver tumors and one with a tumor of the pancreas
that are not outlined. Healthy are SABS fold 0 and half of CHAOS (every fourth slice), people without lesions
of the pancreas (NIH), normal chests (IQ-OTHNCCD) and IXI volunteers, which are slices, and whole heads
without a tumor (``head_volumes.py``), some with sclerosis.

* Dice of every outlined scan, mean over patients; lesions are components, found at an IoU of 0.1.
* Sensitivity at 1 and 2 false positives a volume, for lesions of 10 mm and more that nobody put there: any
  slice with a score of 0.1, or part with that chance, may hold some, and a component counts with the chance
  of its part or, where parts are not judged, with the highest score of its slices.
* Healthy people in whom anything is marked; AUROC and Brier score of presence over people. Scans in which a
  prompt is refused, as no training showed its organ's tumors in their modality, are counted apart.
* Share of what is marked that lies within 5 mm of the organ: its label, or air in the body, with the tumor.

``--known`` writes the table that users are told (``tumor-results.json``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import brain_slices
import latentseg as ls
from latentseg.errors import LatentsegWarning, UsageError
from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.datasets.base import Dataset, data_root
from latentseg.evaluation.datasets.tumors import CONTROL_STEP, get_category, thinned
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.components import large_in_volume
from latentseg.imaging.intensity import Modality, is_windowed
from latentseg.methods.tumor.evidence import TumorSegmentation
from latentseg.methods.tumor.known import Measured
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.metrics.lesions import FOUND_IOU, match_lesions
from latentseg.metrics.overlap import dice
from latentseg.metrics.presence import auroc
from latentseg.training.config import read_config
from latentseg.training.splits import Split
from liver_slices import KEPT_BACK, dark_masses
from masses_in_livers import livers_with_masses

NEAR_MM, LEAST_MM, LOWEST_SCORE = 5.0, 10.0, 0.1
SPECK = 0.02  # of the largest outlined part of a glioma, below which another is none of its own
AIR_HU = -400
CARD = "docs/models/compact-tumors.md"
Mask = NDArray[np.bool_]


class Scan(NamedTuple):
    """A scan; of sick ones without a truth it is known that there is a tumor; organs by finding."""

    name: str
    patient: str
    image: Volume
    sick: bool
    truth: Mask | None = None
    organs: Mapping[str, Mask] = MappingProxyType({})


@dataclass(frozen=True)
class Row:
    """One scan; ``candidates`` are pairs of a confidence and the numbers of the lesions that it hits."""

    finding: str
    name: str
    patient: str
    sick: bool
    picture: bool
    modality: str
    presence: float
    found_ml: float
    parts: int
    near: float | None
    dice: float | None
    lesions: int
    found: int
    large: list[int]
    candidates: list[tuple[float, list[int]]]


def held_out(pattern: str, patient: str = r"^([^._]+)") -> Iterator[tuple[Path, str]]:
    """Files below the data folder that the split keeps back, and whose they are."""
    root, split = data_root(), read_config(Path("configs/split.yaml"), Split)
    for path in sorted(root.glob(pattern)):
        whose = re.search(patient, path.name)
        if whose and not path.stem.endswith("_label") and split.part(path.relative_to(root)) == "held out":
            yield path, whose[1]


def chests() -> Iterator[Scan]:
    """Outlined nodules and tumors of the lung."""
    root = data_root() / "tcia"
    for path in sorted(root.glob("LIDC-IDRI__LIDC-IDRI-000[123]__CT__*.nii.gz")):
        image = read(path, modality="CT")
        truth = read_labels(path.with_name(f"{path.name.split('__CT')[0]}__nodule_mask.nii.gz"), like=image)
        yield of_lung(path.name.split("__")[1], image, truth.array > 0)
    path = next(root.glob("4D-Lung*[0-9].nii.gz"))
    image = read(path, modality="CT")
    bits = read_labels(path.with_name(path.name.replace(".nii.gz", "_rtstruct_bits.nii.gz")), like=image)
    yield of_lung("4D-Lung", image, bits.array % 2 == 1)
    for case in get_category("lung").files[1].cases(data_root()):
        yield of_lung("LUNG1-001", case.image, np.asarray(case.mask, bool))


def of_lung(name: str, image: Volume, truth: Mask) -> Scan:
    """A chest with a tumor, which is a part of its lungs."""
    return Scan(name, name, image, True, truth, {"lung": air(image) | truth})


def air(image: Volume) -> Mask:
    """Large air within the body, vessels included: the lungs of a chest."""
    axis = int(np.argmax(image.spacing_mm))
    slices = np.moveaxis(image.array, axis, 0)
    dark = slices <= 3 if is_windowed(slices) else slices < AIR_HU
    body = np.stack([ndimage.binary_fill_holes(ndimage.binary_opening(~one, iterations=2)) for one in dark])
    inside = ndimage.binary_opening(body & dark, np.ones((1, 3, 3)), iterations=2)
    closed = np.stack([ndimage.binary_closing(one, iterations=4) for one in inside])
    return np.asarray(np.moveaxis(closed, 0, axis))


def pictures(pattern: str, modality: Modality, *, sick: bool, **patient: str) -> Iterator[Scan]:
    """Single slices that the split keeps back, with their outlines where they are sick."""
    for path, whose in held_out(pattern, **patient):
        image = read(path, modality=modality)
        truth = read_labels(path.with_name(f"{path.stem}_label.png"), like=image).array > 0 if sick else None
        yield Scan(path.name, whose, image, sick, truth)


def heads(kind: str) -> Iterator[Scan]:
    """Outlined brain tumors of one kind."""
    for scan in pictures("slices_2d/brain_cheng/*.jpg", "MR", sick=True):
        if brain_slices.kind_of(int(Path(scan.name).stem)) == kind:
            yield scan


def whole_heads(kind: str, contrast: str = "*", *, use: str = "evaluation") -> Iterator[Scan]:
    """Whole heads in MR, with an outlined glioma (``tumor``, ``lower_grade``) or with no tumor (``none``)."""
    folder = data_root() / "head_volumes" / use / kind
    for path in sorted(folder.glob(f"*_{contrast}.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        if name.endswith("_seg"):
            continue
        image = read(path, modality="MR")
        truth = None
        if kind != "none":
            outlined = read_labels(folder / f"{name}_seg.nii.gz", like=image).array > 0
            truth = large_in_volume(outlined, fraction=SPECK)
        yield Scan(name, re.split("-study", name.rpartition("_")[0])[0], image, kind != "none", truth)


def kidneys() -> Iterator[Scan]:
    """Outlined kidney tumors in the slices of ``kidney_slices.py`` by which nothing was chosen."""
    for path in sorted((data_root() / "kidney_slices" / "evaluation").glob("*[0-9].png")):
        image = read(path, modality="CT")
        labels = read_labels(path.with_name(f"{path.stem}_label.png"), like=image).array
        if (labels == 2).any():  # a kidney is 1, its tumor 2
            yield Scan(path.name, path.stem.split("_")[0], image, True, labels == 2, {"kidney": labels > 0})


def livers() -> Iterator[Scan]:
    """Slices of livers with masses, chosen and outlined as ``liver_slices.py`` says."""
    for path, whose in held_out("slices_2d/msd_liver/*.jpg", r"^(\d+)_"):
        if path.stem in KEPT_BACK.split():
            image = read(path, modality="CT")
            liver = read_labels(path.with_name(f"{path.stem}_label.png"), like=image).array > 0
            masses = dark_masses(image.array.squeeze().astype(np.float64), liver.squeeze())
            truth = masses.reshape(liver.shape) & liver
            yield Scan(path.name, whose, image, True, truth, {BY_RULE: liver})


def masses_put() -> Iterator[Scan]:
    """Whole livers into which masses of other people were put."""
    for scan in livers_with_masses():
        yield Scan(scan.name, scan.patient, scan.image, True, scan.truth, {PUT: scan.liver | scan.truth})


def not_outlined(*patterns: str) -> Iterator[Scan]:
    """CT volumes with a tumor that is seen."""
    for pattern in patterns:
        for path in sorted(data_root().glob(f"tcia/{pattern}__CT__*[0-9].nii.gz")):
            yield Scan(path.name.split("__CT")[0], path.name, read(path, modality="CT"), True)


def healthy(dataset: Dataset, cases: Iterable[str]) -> Iterator[Scan]:
    """Every few slices of healthy volumes, with the organs that tumors are asked for in."""
    for case_id in cases:
        case = dataset.load(case_id)
        image, axis = case.image, int(np.argmax(case.image.spacing_mm))
        organs: dict[str, Mask] = {}
        for finding, parts in LABELS.items():
            known = [case.mask(part) for part in parts if part in case.label_of]
            organs |= {finding: np.any(known, 0)} if known else {}
        places = range(CONTROL_STEP // 2, image.shape[axis], CONTROL_STEP)
        kept = thinned(image, image.array.take(places, axis=axis), axis)
        name = f"{dataset.name} {case_id}"
        thin = {finding: organ.take(places, axis=axis) for finding, organ in organs.items()}
        yield Scan(name, name, kept, False, None, thin)


LABELS = {"kidney": ("right_kidney", "left_kidney"), "liver": ("liver",), "pancreas": ("pancreas",)}
BY_RULE = "liver-slices"  # no radiologist drew these
PUT = "liver-put"
WHOLE = "brain-volumes"
LOWER = {"lower-grade-flair": "flair", "lower-grade-t1": "t1"}  # contrasts of whole heads with the skull
FINDINGS = {
    "lung": "lung tumor",
    WHOLE: "brain tumor",
    **dict.fromkeys(LOWER, "brain tumor"),
    "brain": "brain tumor",
    "meningioma": "meningioma",
    "glioma": "glioma",
    "pituitary": "pituitary adenoma",
    "kidney": "kidney tumor",
    "liver": "liver tumor",
    BY_RULE: "liver tumor",
    PUT: "liver tumor",
    "pancreas": "pancreatic tumor",
}
NOT_TOLD = ("brain", *LOWER, BY_RULE, PUT)  # of which users are told other rows
ABDOMEN = ("kidney", "liver", "pancreas")
HEAD = ("brain", *brain_slices.KINDS)
KINDS: tuple[tuple[tuple[str, ...], Callable[[], Iterator[Scan]]], ...] = (
    (("lung",), chests),
    (("lung",), lambda: pictures("slices_2d/iq_othnccd/normal/*.jpg", "CT", sick=False)),
    *((("brain", kind), partial(heads, kind)) for kind in brain_slices.KINDS),
    (HEAD, lambda: pictures("healthy_brain/*.png", "MR", sick=False, patient=r"sub-(IXI\d+)")),
    ((WHOLE,), partial(whole_heads, "tumor")),
    ((WHOLE,), partial(whole_heads, "none")),
    *(((finding,), partial(whole_heads, "lower_grade", of)) for finding, of in LOWER.items()),
    (("kidney",), kidneys),
    ((BY_RULE,), livers),
    ((PUT,), masses_put),
    (("liver",), lambda: not_outlined("CRLM*", "*BC-A10X")),
    (("pancreas",), lambda: not_outlined("*C3L-00189")),
    ((*ABDOMEN, BY_RULE, PUT), lambda: healthy(SABS, SABS.fold(0))),
    ((*ABDOMEN, BY_RULE, PUT), lambda: healthy(CHAOS, CHAOS.present()[::2])),
    (
        (*ABDOMEN, BY_RULE, PUT),
        lambda: pictures("slices_2d/nih_pancreas/*.jpg", "CT", sick=False, patient=r"PANCREAS_(\d+)"),
    ),
)
"""Findings that are asked for in scans of a kind."""


def row_of(finding: str, scan: Scan, prepared: PreparedScan, segmenter: TumorSegmenter) -> Row:
    """Segment a scan, and once more with every slice a candidate where there are lesions to be found."""
    prompt, image = FINDINGS[finding], scan.image
    result = segmenter.predict(prepared, prompt)
    truth = np.zeros(image.shape, bool) if scan.truth is None else scan.truth
    match, ml = match_lesions(result.mask, truth), float(np.prod(image.spacing_mm)) / 1000
    labelled, count = ndimage.label(truth, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(truth, labelled, range(1, count + 1)) * ml * 1000
    picture = min(image.shape) == 1
    across = (6 * sizes / np.pi) ** (1 / 3)
    ranked = not picture and finding not in (PUT, WHOLE, *LOWER)
    large = [n for n in range(count) if ranked and across[n] >= LEAST_MM]
    return Row(
        finding=finding,
        name=scan.name,
        patient=scan.patient,
        sick=scan.sick,
        picture=picture,
        modality=image.modality,
        presence=round(result.presence, 4),
        found_ml=round(float(result.mask.sum()) * ml, 2),
        parts=match.predicted,
        near=near_share(result.mask, scan.organs.get(finding), scan.image.spacing_mm),
        dice=None if scan.truth is None else round(dice(result.mask, truth), 4),
        lesions=match.true,
        found=match.found(),
        large=large,
        candidates=candidates(result, segmenter, prepared, truth) if large else [],
    )


def near_share(mask: Mask, organ: Mask | None, spacing_mm: tuple[float, float, float]) -> float | None:
    """Share of a mask that lies near its organ."""
    if organ is None or not mask.any():
        return None
    if not organ.any():
        return 0.0
    away = ndimage.distance_transform_edt(~organ, sampling=spacing_mm)
    return round(float((away[mask] <= NEAR_MM).mean()), 4)


def candidates(
    result: TumorSegmentation, segmenter: TumorSegmenter, prepared: PreparedScan, truth: Mask
) -> list[tuple[float, list[int]]]:
    """Components where every slice may hold some, each with its confidence and the lesions that it finds.

    Where parts are judged, all of them are known at once, those that are let go as well.
    """
    judged = any(one and one.networks.judge for one in prepared.alone.values())
    if not judged:
        options = replace(segmenter.options, min_presence=LOWEST_SCORE)
        result = TumorSegmenter(segmenter.networks, options=options).predict(prepared, result.target)
    score = result.evidence.seen.canonical.restore(result.evidence.slices("certainty"))
    mask = score >= LOWEST_SCORE if judged else result.mask
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    confidence = ndimage.maximum(score, parts, range(1, count + 1)) if count else []
    hits = match_lesions(mask, truth).iou >= FOUND_IOU
    return [(round(float(c), 4), np.flatnonzero(hits[:, n]).tolist()) for n, c in enumerate(confidence)]


def sensitivity(rows: list[Row], *, false_positives: float) -> float | None:
    """Share of the large lesions that are found where so many other components a scan are accepted."""
    total = sum(len(row.large) for row in rows)
    if not total:
        return None
    best, limits = 0.0, sorted({c for row in rows for c, _ in row.candidates})
    for limit in limits:
        wrong = sum(1 for row in rows for c, hit in row.candidates if c >= limit and not hit)
        if wrong <= false_positives * len(rows):
            found = [
                {n for c, hit in row.candidates if c >= limit for n in hit} & set(row.large) for row in rows
            ]
            best = max(best, sum(map(len, found)) / total)
    return round(best, 3)


def summary_of(rows: list[Row]) -> dict[str, float | int | None]:
    """Figures of one finding."""
    sick, well = [row for row in rows if row.sick], [row for row in rows if not row.sick]
    people = [of_people(part, lambda row: row.presence, max) for part in (sick, well)]
    outlined = [row for row in sick if row.dice is not None]
    near = [row.near for row in rows if row.near is not None]
    wrong = [(1 - x) ** 2 for x in people[0]] + [x**2 for x in people[1]]
    mean = of_people(outlined, lambda row: row.dice or 0.0, np.mean)
    return {
        "scans": len(sick),
        "outlined": len(outlined),
        "patients": len(people[0]),
        "dice": round(float(np.mean(mean)), 4) if mean else None,
        "lesions": sum(row.lesions for row in outlined),
        "found": sum(row.found for row in outlined),
        "lesions_10_mm": sum(len(row.large) for row in outlined),
        "sensitivity_1_fp": sensitivity(outlined, false_positives=1),
        "sensitivity_2_fp": sensitivity(outlined, false_positives=2),
        "marked": sum(row.parts > 0 for row in sick),
        "healthy": len(people[1]),
        "alarmed": sum(x > 0 for x in of_people(well, lambda row: row.parts, max)),
        "false_positives": round(float(np.mean([row.parts for row in well])), 3) if well else None,
        "auroc": auroc(people[0], people[1]),
        "brier": round(float(np.mean(wrong)), 4),
        "near_organ": round(float(np.mean(near)), 4) if near else None,
        "near_organ_95": sum(x >= 0.95 for x in near),
        "masks_with_organ": len(near),
    }


def of_people(rows: list[Row], value: Callable[[Row], float], join: Callable[..., float]) -> list[float]:
    """A value of every person, of whom there may be several scans."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row.patient].append(value(row))
    return [float(join(of)) for of in values.values()]


def known(rows: list[Row], figures: dict[str, float | int | None]) -> Measured:
    """What users are told of a finding."""
    pictures_only = all(row.picture for row in rows if row.sick)
    return Measured(
        held_out="patients",
        what="slices" if pictures_only else "volumes",
        modalities=tuple(sorted({row.modality for row in rows if row.sick})),
        scans=int(figures["scans"] or 0),
        patients=int(figures["patients"] or 0) if not pictures_only else None,
        dice=figures["dice"],
        lesions=int(figures["lesions"] or 0),
        found=int(figures["found"] or 0),
        marked=int(figures["marked"] or 0),
        healthy=int(figures["healthy"] or 0),
        alarmed=int(figures["alarmed"] or 0),
        card=CARD,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--finding", default=",".join(FINDINGS))
    parser.add_argument("--weights", type=Path, help="Tumor weights; the shipped ones when left out.")
    parser.add_argument("--limit", type=int, help="Only so many scans of a kind, for a trial.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/tumor_volumes.json"))
    parser.add_argument("--known", type=Path)
    options = parser.parse_args()
    segmenter = ls.load("tumor", weights=options.weights, options=replace(RECOMMENDED, refinement=None))
    warnings.simplefilter("ignore", LatentsegWarning)
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": segmenter.fingerprint}
    rows: list[Row] = []
    refused: dict[str, list[str]] = defaultdict(list)
    asked = options.finding.split(",")
    for findings, scans in KINDS:
        wanted = [finding for finding in findings if finding in asked]
        for scan in islice(scans(), options.limit) if wanted else ():
            prepared = segmenter.prepare(scan.image)
            for finding in wanted:
                try:
                    segmenter.check(FINDINGS[finding], scan.image)
                except UsageError:
                    refused[finding].append(scan.name)
                    continue
                rows.append(row_of(finding, scan, prepared, segmenter))
                sys.stdout.write(f"{asdict(rows[-1]) | {'candidates': len(rows[-1].candidates)}}\n")
                sys.stdout.flush()
        by_finding = {finding: [row for row in rows if row.finding == finding] for finding in asked}
        summaries = {finding: summary_of(own) for finding, own in by_finding.items() if own}
        result = {**about, "summaries": summaries, "refused": refused, "scans": [asdict(row) for row in rows]}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")
    for finding, figures in summaries.items():
        sys.stdout.write(f"{finding}: {json.dumps(figures)}, refused in {len(refused[finding])}\n")
    told = {
        FINDINGS[f]: known(by_finding[f], summaries[f]).model_dump() for f in summaries if f not in NOT_TOLD
    }
    if options.known:
        options.known.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

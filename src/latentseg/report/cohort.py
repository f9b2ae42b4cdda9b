"""Reads the folder of a batch: its manifest, the records of its cases, and the paths of their files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentseg.batch.manifest import review_list
from latentseg.batch.store import OutputFolder, Record
from latentseg.batch.supports import support_path
from latentseg.errors import InputError
from latentseg.imaging.files import natural_key, suffix_of
from latentseg.methods.results import file_name

NOT_A_RUN = "give the folder that 'latentseg batch -o' wrote"
AGAIN = "run 'latentseg batch' again with --resume: what is finished is kept"
KINDS = {
    "seg": "mask",
    "seg.dcm": "DICOM SEG",
    "prob": "probability",
    "prob.dcm": "fractional DICOM SEG",
    "sr": "DICOM SR",
    "attention": "attention map",
    "healthy": "pseudo-healthy",
    "residual": "residual",
    "uncertainty": "spread over seeds",
    "evidence": "evidence",
    "radiomics": "radiomics",
    "combined": "label map",
    "combined.dcm": "DICOM SEG of all targets",
    "dseg.nii.gz": "BIDS dseg",
    "stats": "statistics",
}
"""What files are, by the part of their name after the case, and their suffix where that matters."""
WHOLE = ("combined", "dseg", "stats")  # of all targets of a case
SHOWN_OF_ROW = ("volume_ml", "components", "absent")  # what a page needs besides the confidence

IN_MANIFEST = {"methods": list, "versions": dict, "machine": dict, "command": list}
IN_METHOD = {"options": dict, "files": dict, "own_weights": dict, "targets": list}


@dataclass(frozen=True)
class Run:
    """A batch as it was found in its folder.

    Attributes:
        folder: Where they are.
        manifests: How they were made, the latest part first: one, or one of every shard.
        records: What became of every case, in the natural order of their names.
    """

    folder: Path
    manifests: tuple[Mapping[str, Any], ...]
    records: tuple[Record, ...]

    @property
    def done(self) -> list[Record]:
        """The cases with results."""
        return [record for record in self.records if not record.failed]

    @property
    def failed(self) -> list[Record]:
        """The cases that failed, each with its reason."""
        return [record for record in self.records if record.failed]

    @cached_property
    def review(self) -> list[dict[str, Any]]:
        """A row per case and target, those first that a person should look at first."""
        return review_list(self.done)

    @property
    def methods(self) -> list[Mapping[str, Any]]:
        """Models with their options, each once, however many shards used it."""
        found: list[Mapping[str, Any]] = []
        for manifest in self.manifests:
            found += [method for method in manifest["methods"] if method not in found]
        return found

    def image_of(self, record: Record) -> Path:
        """The scan of a case; paths that are not absolute are meant from where the batch was started."""
        starts = (Path(str(manifest.get("folder", "."))) for manifest in self.manifests)
        places = [start / record.image for start in starts]
        return next((place for place in places if place.exists()), Path(record.image))

    def file_of(self, record: Record, kind: str, target: str) -> Path | None:
        """The image of one kind, such as ``seg`` or ``prob``, of one target; None where none was saved."""
        stem = f"{record.case}_{kind}-{file_name(target)}"
        names = (name for name in record.files if name.removesuffix(suffix_of(Path(name))) == stem)
        return next((self.folder / record.case / name for name in names), None)

    def support_of(self, target: str) -> Path | None:
        """The picture of the examples of a target; None where it was not shown, or only encoded."""
        path = support_path(self.folder, target)
        return path if path.is_file() else None

    def files_of(self, record: Record, target: str) -> list[tuple[str, Path]]:
        """What was written of one target and of all targets together, each with what it is."""
        ends, found = f"-{file_name(target)}", {}
        for name in record.files:
            suffix = suffix_of(Path(name)) or Path(name).suffix
            stem = name[: len(name) - len(suffix)].removeprefix(f"{record.case}_")
            kind = "dseg" if stem.endswith("_dseg") else stem.removesuffix(ends)
            title = KINDS.get(f"{kind}{suffix}") or KINDS.get(kind)
            if title and (stem.endswith(ends) or kind in WHOLE):
                found[title] = self.folder / record.case / name
        return [(title, found[title]) for title in dict.fromkeys(KINDS.values()) if title in found]

    def lost_files(self, record: Record) -> list[str]:
        """Files that are gone, or have another size than they were written with."""
        folder = self.folder / record.case
        paths = {name: folder / name for name in record.files}
        return [
            name
            for name, path in paths.items()
            if not path.is_file() or path.stat().st_size != record.files[name]
        ]


def read_run(folder: str | Path) -> Run:
    """Read what a batch left, finished or not.

    A case whose record cannot be read is a failed case.

    Raises:
        InputError: No batch wrote into this folder, or the manifest is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix=NOT_A_RUN)
    paths = [path for path in (folder / "run.json", *folder.glob("run_shard-*.json")) if path.exists()]
    if not paths:
        raise InputError("there is no run.json, so no run to report on", where=str(folder), fix=NOT_A_RUN)
    manifests = sorted(map(_manifest, paths), key=lambda one: str(one.get("started")), reverse=True)
    records = {record.case: record for record in _records(folder)}
    listed = {record.case: record for record in _listed_failures(folder / "failures.csv")}
    found = sorted((listed | records).values(), key=lambda record: natural_key(Path(record.case)))
    return Run(folder, tuple(manifests), tuple(found))


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = _fits(content, IN_MANIFEST) and all(_fits(method, IN_METHOD) for method in content["methods"])
        reason = "" if whole else "not what a batch writes"
    except (OSError, ValueError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    if reason:
        raise InputError(f"the manifest is damaged ({reason})", where=str(path), fix=AGAIN)
    return dict(content)


def _fits(content: Any, kinds: Mapping[str, type]) -> bool:
    """Whether what is there is of the right kind."""
    return isinstance(content, dict) and all(
        isinstance(content.get(name, kind()), kind) for name, kind in kinds.items()
    )


def _records(folder: Path) -> Iterator[Record]:
    for path in folder.glob("*/*_case.json"):
        case = path.parent.name
        if path.name == f"{case}_case.json" and not case.startswith("."):
            record = OutputFolder(folder).record(case)
            yield record if record and _is_sound(record) else _damaged(case, path)


def _is_sound(record: Record) -> bool:
    """Whether a record holds what a page shows of it."""
    try:
        rows = review_list([record])
        tables = (record.files, record.reading, record.seconds)
        return all(isinstance(table, dict) for table in tables) and all(map(_is_whole_row, rows))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _is_whole_row(row: Mapping[str, Any]) -> bool:
    return bool(row["target"]) and set(SHOWN_OF_ROW) <= row.keys()


def _damaged(case: str, path: Path) -> Record:
    error = InputError("the record of this case is damaged", where=str(path), fix=AGAIN)
    reason = {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}
    return Record(case, "", error=reason)


def _listed_failures(path: Path) -> Iterator[Record]:
    """Failed cases whose record could not be written, as on a full disk."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error):
        return
    for row in rows:
        reason = {name: row.get(name) or "" for name in ("code", "what", "where", "fix")}
        yield Record(row.get("case") or "?", row.get("image") or "", error=reason)

"""The manifest and the tables of a run: how results were made, which to review first, what failed and why."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentseg.batch.confidence import Confidence
from latentseg.batch.store import Record
from latentseg.imaging.files import csv_text
from latentseg.methods.measures import PERCENTILES
from latentseg.version import __version__

if TYPE_CHECKING:
    from latentseg.batch.work import Task

CONFIDENCE = ("presence", "uncertainty", "worst_slice", "slice_axis", "touches_border")
CASE_COLUMNS = (
    *("rank", "case", "target", "why", "review", "absent", *CONFIDENCE),
    *("volume_ml", "components", "largest_axial_diameter_mm", "bounding_box_ijk"),
    *("intensity_mean", "intensity_sd", *(f"intensity_p{share}" for share in PERCENTILES)),
    *("warnings", "image"),
)
FAILURE_COLUMNS = ("case", "code", "what", "where", "fix", "image")
LIBRARIES = ("torch", "diffusers", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom")


@dataclass(frozen=True)
class Manifest:
    """How a run was made; on disk ``run.json``, of a shard ``run_shard-<i>-of-<n>.json``.

    Attributes:
        facts: All of it but the cases.
        shard: Which part of the cohort, ``i/n``, or None.
    """

    facts: Mapping[str, Any]
    shard: str | None = None

    @classmethod
    def begin(cls, tasks: Sequence[Task], *, save: Sequence[str], shard: str | None) -> Manifest:
        """The manifest of a run that starts now."""
        methods = [
            {"weights": task.weights, **task.about, "options": task.options, "targets": task.names}
            for task in tasks
        ]
        facts = {
            "latentseg": __version__,
            "status": "running",
            "command": sys.argv,
            "folder": str(Path.cwd()),
            "started": _now(),
            "finished": None,
            "machine": {"host": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
            "versions": {"python": platform.python_version()} | _versions(),
            "methods": methods,
            "save": list(save),
            "shard": shard,
        }
        return cls(facts, shard)

    @property
    def name(self) -> str:
        """Name of the file; every shard has its own."""
        return f"run_shard-{self.shard.replace('/', '-of-')}.json" if self.shard else "run.json"

    def ended(self, status: str) -> Manifest:
        """The manifest of a run that ends now."""
        return replace(self, facts={**self.facts, "status": status, "finished": _now()})

    def text(self, records: Iterable[Record]) -> str:
        """The file, with status and times of every case."""
        cases = [
            {"case": r.case, "status": "failed" if r.failed else "done", "seconds": dict(r.seconds)}
            for r in records
        ]
        return json.dumps({**self.facts, "cases": cases}, indent=1, default=str) + "\n"


def weights_facts(backbone: str | Path, weights: Path | None = None) -> dict[str, Any]:
    """Model, licence and the sha256 of every file of weights.

    Raises:
        ModelError: A registered model whose files are damaged.
    """
    from latentseg.backbones import registry

    facts: dict[str, Any] = {"backbone": str(backbone)}
    if str(backbone) in registry.names():
        model = registry.info(str(backbone))
        facts |= {"license": model.license, "license_url": model.license_url}
        facts["files"] = {file.path: file.sha256 for file in registry.verify(model.name)}
    else:
        facts |= {"license": "unknown: a folder of your own", "files": _hashes(Path(backbone))}
    if weights:
        facts["own_weights"] = {"path": str(weights), "files": _hashes(weights)}
    return facts


def review_list(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row per case and target, those first that a person should look at first."""
    rows = []
    for record in records:
        for row in record.targets:
            sure = Confidence(**{name: row[name] for name in CONFIDENCE})
            about = {"case": record.case, "image": record.image, "warnings": "; ".join(record.warnings)}
            rows.append({**row, **about, "why": sure.why, "review": sure.review})
    rows.sort(key=lambda row: (-row["review"], row["case"], row["target"]))
    return [{"rank": rank} | row for rank, row in enumerate(rows, start=1)]


def cases_csv(records: Iterable[Record]) -> str:
    """The table of all results."""
    rows = review_list(record for record in records if not record.failed)
    return csv_text([row | {"bounding_box_ijk": box_text(row)} for row in rows], CASE_COLUMNS)


def box_text(row: Mapping[str, Any]) -> str:
    """A bounding box as first and last indices: ``I 12-45, J 20-80, K 3-9``; empty where there is none."""
    box = row.get("bounding_box_ijk") or []
    return ", ".join(f"{axis} {first}-{last}" for axis, (first, last) in zip("IJK", box, strict=False))


def failures_csv(records: Iterable[Record]) -> str:
    """The table of all failures."""
    rows = [{"case": r.case, "image": r.image, **(r.error or {})} for r in records if r.failed]
    return csv_text(rows, FAILURE_COLUMNS)


def _hashes(place: Path) -> dict[str, str]:
    """The sha256 of a file, or of the weights and configurations in a folder."""
    from latentseg.backbones.registry import sha256_of

    if place.is_file():
        return {place.name: sha256_of(place)}
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".json")
    files = sorted(path for path in place.rglob("*") if path.suffix in kinds)
    return {path.relative_to(place).as_posix(): sha256_of(path) for path in files}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

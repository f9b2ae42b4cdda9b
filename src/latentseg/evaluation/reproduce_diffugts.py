"""DiffuGTS at full size, step by step: train without a category, evaluate on it, write the table.

Each step leaves files and is skipped where they are there, so that a run that is stopped goes on.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentseg.errors import InputError
from latentseg.evaluation.tables import markdown_table
from latentseg.evaluation.tumor_methods import DiffuGTS
from latentseg.evaluation.tumor_volumes import (
    DISCLOSURE,
    VolumeRow,
    VolumeSummary,
    summarize_volumes,
    volume_cells,
    volume_rows,
)
from latentseg.imaging.files import written_whole
from latentseg.methods.tumor.network import FILE
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.training.tumor.volume_training import VolumeTrainingOptions
from latentseg.training.tumor.volumes import TumorFolder, VolumeFiles

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A reproduction in one folder.

    Attributes:
        options: Of the trainings, with the data sets.
        backbone: Folder of the frozen backbone.
        folder: Of the run.
        preset: Of the evaluation.
        device: Of everything.
        limit: Held-out scans of each data set, for a trial.
    """

    options: VolumeTrainingOptions
    backbone: Path
    folder: Path
    preset: str = "paper"
    device: str = "auto"
    limit: int | None = None

    def weights_of(self, data: TumorFolder) -> Path:
        """The weights that were trained without a data set's category."""
        return self.folder / _file_part(data.finding) / FILE

    def rows_of(self, data: TumorFolder) -> Path:
        """The rows of the evaluation of a data set."""
        return self.folder / "rows" / f"{_file_part(data.title)}-{self.preset}.json"


def check_data(run: Run, say: Say) -> None:
    """Say what is there, and refuse before the work what cannot be used.

    Raises:
        InputError: No data set, or a folder that cannot be used.
        UsageError: A label that a data set does not have.
    """
    if not run.options.data:
        fix = "name folders in the layout of nnU-Net under data:, see configs/diffugts-maisi.yaml"
        raise InputError("no data set", where="the configuration", fix=fix)
    for data in run.options.data:
        files = VolumeFiles(data)
        say(f"{data.title}: {len(files.training)} scans to train on, {len(files.held_out)} held out")


def train_each(run: Run, say: Say) -> None:
    """Train once for every category, without it.

    Raises:
        InputError: Nothing is left to train on without a category.
        ModelError: The backbone or the text encoder cannot be used.
        KeyboardInterrupt: It was stopped, with a checkpoint.
    """
    from latentseg.training.tumor.on_maisi import maisi_training

    for finding in dict.fromkeys(data.finding for data in run.options.data):
        place = run.folder / _file_part(finding)
        if (place / FILE).exists():
            say(f"trained without {finding}: {place / FILE}")
            continue
        say(f"training without {finding}")
        blocks = run.options.blocks.model_copy(update={"without": (finding,)})
        options = run.options.model_copy(update={"blocks": blocks})
        maisi_training(options, run.backbone, device=run.device).run(place, resume=True)


def evaluate_each(run: Run, say: Say) -> None:
    """Evaluate every data set with the weights that were trained without its category.

    Raises:
        ModelError: They were not trained yet.
    """
    for data in run.options.data:
        weights, files = run.weights_of(data), VolumeFiles(data)
        segmenter = tumor_segmenter(run, weights)
        target = run.rows_of(data)
        if target.exists() and _read(target).get("weights") == segmenter.fingerprint:
            say(f"evaluated {data.title}: {target}")
            continue
        method = DiffuGTS(segmenter, f"DiffuGTS ({segmenter.networks.backbone.name}, {run.preset})")
        held_out = files.held_out if run.limit is None else files.held_out[: run.limit]
        rows = []
        for row in volume_rows(files.cases(held_out), [method], data=data.title, prompt=data.prompt):
            rows.append(row)
            said = "no tumor" if row.dice is None else f"Dice {row.dice:.3f}"
            say(f"{data.title} {row.case}: {said}, {row.found_voxels} voxels found")
        content = {"weights": segmenter.fingerprint, "rows": [asdict(row) for row in rows]}
        _write(target, json.dumps(content, indent=1) + "\n")


def tumor_segmenter(run: Run, weights: Path) -> TumorSegmenter:
    """The segmenter of some weights on the backbone of a run."""
    from latentseg.backbones.device import pick_device, pick_dtype
    from latentseg.backbones.layouts import layout_of
    from latentseg.methods.tumor.load import BUILDERS
    from latentseg.methods.tumor.options import PRESETS

    place = pick_device(run.device)
    build = BUILDERS[layout_of(run.backbone, "tumor").name]
    networks = build(run.backbone, weights, place, pick_dtype("auto", place))
    return TumorSegmenter(networks, options=PRESETS[run.preset])


def write_page(run: Run) -> list[VolumeSummary]:
    """Write ``table.md``, ``cases.csv`` and ``results.json`` of what was evaluated.

    Raises:
        InputError: Nothing was.
    """
    found = [run.rows_of(data) for data in run.options.data if run.rows_of(data).exists()]
    if not found:
        raise InputError("nothing was evaluated", where=str(run.folder), fix="run the step evaluate first")
    rows = [VolumeRow(**row) for path in found for row in _read(path)["rows"]]
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": "one category left out of the training, evaluated on held-out whole volumes",
        "preset": run.preset,
        **({"limit": run.limit} if run.limit else {}),
    }
    write_volume_tables(rows, folder=run.folder, about=about)
    return summarize_volumes(rows)


def write_volume_tables(rows: Sequence[VolumeRow], *, folder: Path, about: dict[str, Any]) -> None:
    """Write ``table.md``, ``cases.csv`` and ``results.json``, each whole or not at all."""
    summaries, records = summarize_volumes(rows), [asdict(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    facts = "".join(f"* {name}: {value}\n" for name, value in about.items())
    table = markdown_table(*volume_cells(summaries), texts=3)
    results = {"about": about, "summaries": [asdict(one) for one in summaries], "volumes": records}
    _write(folder / "cases.csv", stream.getvalue())
    _write(folder / "results.json", json.dumps(results, indent=1) + "\n")
    _write(folder / "table.md", f"# Tumors in whole volumes\n\n{facts}\n{table}\n{DISCLOSURE}\n")


def steps_of(run: Run, say: Say, names: Iterable[str]) -> None:
    """Take some steps, in their order."""
    steps: dict[str, Callable[[], object]] = {
        "check": lambda: check_data(run, say),
        "train": lambda: train_each(run, say),
        "evaluate": lambda: evaluate_each(run, say),
        "page": lambda: write_page(run),
    }
    for name in names:
        steps[name]()


def _file_part(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text.lower())


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")

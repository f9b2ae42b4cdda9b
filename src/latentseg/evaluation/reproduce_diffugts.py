"""DiffuGTS at full size, step by step: train without a category, evaluate on it, write the table.

Each step leaves files and is skipped where they are there, so that a run that is stopped goes on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentseg.errors import InputError, ModelError
from latentseg.evaluation.pictures import picture_file, save_picture, wrong_slices
from latentseg.evaluation.tumor_methods import IntensityOutlier
from latentseg.evaluation.tumor_rows import write_tumor_tables
from latentseg.evaluation.tumor_volumes import VolumeRow, summarize_volumes, volume_row, volume_table
from latentseg.evaluation.zero_shot import Found
from latentseg.imaging import Volume
from latentseg.imaging.files import write_json
from latentseg.methods.tumor.network import FILE
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.training.tumor.blocks import organ_of
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

    @property
    def tumors(self) -> list[TumorFolder]:
        """The data sets that show tumors; the others are for the organs."""
        return [data for data in self.options.data if data.labels]

    def weights_of(self, data: TumorFolder) -> Path:
        """The weights that were trained without a data set's category."""
        return self.folder / _file_part(data.finding) / FILE

    def rows_of(self, data: TumorFolder) -> Path:
        """The rows of the evaluation of a data set."""
        return self.folder / "rows" / f"{_file_part(data.title)}-{self.preset}.json"

    def picture_of(self, row: VolumeRow) -> Path:
        """Where the picture of a case is."""
        return picture_file(self.folder, row.data, row.case, self.preset)

    @property
    def curves(self) -> dict[str, Path]:
        """Pictures of the trainings' losses, by title."""
        findings = dict.fromkeys(data.finding for data in self.tumors)
        return {
            f"without {finding}, {part}": self.folder / _file_part(finding) / part / "loss.png"
            for finding in findings
            for part in ("attention", "organs", "residuals")
        }


def check_models(run: Run) -> None:
    """Read what is trained on, before the folder of the run is begun; nothing where all is trained.

    Raises:
        ModelError: The backbone or the text encoder cannot be used.
    """
    from latentseg.backbones.layouts import layout_of

    kind = layout_of(run.backbone, "tumor").name
    if kind != "maisi":
        fix = "take maisi-ct, or `latentseg train tumor` on the other"
        raise ModelError(f"volumes train MAISI, and this is {kind}", where=str(run.backbone), fix=fix)
    if not all(run.weights_of(data).exists() for data in run.tumors):
        from latentseg.training.tumor.on_maisi import maisi_training

        maisi_training(run.options, run.backbone, device=run.device)


def check_data(run: Run, say: Say) -> None:
    """Say what is there, and refuse before the work what cannot be used.

    Raises:
        InputError: No data set, or a folder that cannot be used.
        UsageError: A label that a data set does not have.
    """
    if not run.tumors:
        fix = "name folders in the layout of nnU-Net under data:, see configs/diffugts-maisi.yaml"
        raise InputError("no data set with tumors", where="the configuration", fix=fix)
    titles = [data.title for data in run.options.data]
    for title, count in Counter(titles).items():
        if count > 1:
            raise InputError(f"{count} data sets are called {title!r}", where="data", fix="give them a name:")
    for data in run.options.data:
        files = VolumeFiles(data)
        say(f"{data.title}: {len(files.training)} scans to train on, {len(files.held_out)} held out")
    for data in run.tumors:
        others = [one for one in run.tumors if organ_of(one.finding) != organ_of(data.finding)]
        if not others and not run.weights_of(data).exists():
            fix = "name a data set of another organ"
            raise InputError(f"nothing to train on without {data.finding}", where="data", fix=fix)


def train_each(run: Run, say: Say) -> None:
    """Train once for every category, without it.

    Raises:
        InputError: Nothing is left to train on without a category.
        ModelError: The backbone or the text encoder cannot be used.
        KeyboardInterrupt: It was stopped, with a checkpoint.
    """
    from latentseg.training.tumor.on_maisi import maisi_training

    for finding in dict.fromkeys(data.finding for data in run.tumors):
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

    Every scan is on the disk when it is done, with a picture of where its mask is wrong. Beside it stand two
    baselines: the attention map without refinement, and outliers of intensity.

    Raises:
        ModelError: They were not trained yet.
    """
    for data in run.tumors:
        files, segmenter = VolumeFiles(data), tumor_segmenter(run, run.weights_of(data))
        target = run.rows_of(data)
        rows = rows_with(target, segmenter.fingerprint)
        held_out = files.held_out if run.limit is None else files.held_out[: run.limit]
        todo = [number for number in held_out if files.scans.names[number] not in {row.case for row in rows}]
        if not todo:
            say(f"evaluated {data.title}: {target}")
        for number in todo:
            case = files.case(number)
            say(f"{data.title} {case.name}: {segmenter.needs(case.image)}")
            for method, found in looked_for(case.image, data.prompt, segmenter, preset=run.preset):
                row = volume_row(case, found, method=method, data=data.title, prompt=data.prompt)
                rows.append(row)
                say(f"{data.title} {row.case}, {row.method}: {row.said}")
                if method.startswith("DiffuGTS"):
                    png = wrong_slices(case.image, found.mask, case.mask, target=data.prompt)
                    save_picture(run.picture_of(row), png)
            content = {"weights": segmenter.fingerprint, "rows": [asdict(one) for one in rows]}
            write_json(target, content)


def looked_for(
    scan: Volume, prompt: str, segmenter: TumorSegmenter, *, preset: str
) -> Iterator[tuple[str, Found]]:
    """What a segmenter and the baselines find in a scan, by name; the scan is encoded once."""
    networks, prepared = segmenter.networks, segmenter.prepare(scan)
    alone = TumorSegmenter(networks, options=replace(segmenter.options, refinement=None))
    names = (f"DiffuGTS ({networks.backbone.name}, {preset})", "its attention map alone")
    for name, one in zip(names, (segmenter, alone), strict=True):
        hit = one.predict(prepared, prompt)
        yield name, Found(hit.mask, hit.evidence.scores)
    outlier = IntensityOutlier()
    yield outlier.name, outlier(scan, prompt)


def rows_with(path: Path, weights: str) -> list[VolumeRow]:
    """Rows that some weights made before; none where others did, or nobody.

    Raises:
        InputError: The file is damaged.
    """
    content = _read(path) if path.exists() else {}
    return _rows(content, path) if content.get("weights") == weights else []


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


def evaluated_rows(run: Run) -> list[VolumeRow]:
    """What was evaluated.

    Raises:
        InputError: Nothing was, or a file is damaged.
    """
    found = [run.rows_of(data) for data in run.tumors if run.rows_of(data).exists()]
    if not found:
        raise InputError("nothing was evaluated", where=str(run.folder), fix="run the step evaluate first")
    return [row for path in found for row in _rows(_read(path), path)]


def facts_of(run: Run) -> dict[str, object]:
    """What the head of the table says."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": "one category left out of the training, evaluated on held-out whole volumes",
        "preset": run.preset,
        **({"limit": run.limit} if run.limit else {}),
    }


def write_volume_tables(rows: Sequence[VolumeRow], *, folder: Path, about: Mapping[str, object]) -> None:
    """Write ``table.md``, ``cases.csv`` and ``results.json``, each whole or not at all."""
    summaries = summarize_volumes(rows)
    write_tumor_tables(rows, volume_table(summaries), summaries=summaries, folder=folder, about=about)


def _file_part(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text.lower())


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path) from error


def _rows(content: Mapping[str, Any], path: Path) -> list[VolumeRow]:
    try:
        return [VolumeRow(**row) for row in content["rows"]]
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(
        "these results cannot be read", where=str(path), fix="remove the file: it is made again"
    )

"""The page of a batch: everything is on it, nothing is outside it, and what is wrong is said."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.batch.cases import find_cases
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.store import Record
from latentseg.batch.supports import support_path, support_picture
from latentseg.batch.work import Task
from latentseg.cli import main
from latentseg.errors import InputError, UsageError
from latentseg.evaluation.label_maps import MetricOptions
from latentseg.imaging import Volume, read
from latentseg.methods.base import Segmenter
from latentseg.methods.fewshot.support import Support
from latentseg.methods.results import Segmentation
from latentseg.phantom.bodies import abdomen
from latentseg.report.cohort import read_run
from latentseg.report.cohort_cases import findings
from latentseg.report.cohort_page import cohort_page
from latentseg.report.cohort_truth import find_truth
from latentseg.report.page import render
from latentseg.report.stack import Room


class Fixed(Segmenter[str, Volume]):
    """Finds the same in every scan."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask

    def check(self, target: str, scan: Volume | None = None) -> None:
        """Take any target."""

    def prepare(self, scan: Volume) -> Volume:
        return scan

    def predict(self, prepared: Volume, target: str) -> Segmentation:
        return Segmentation(target, prepared, self.mask, self.mask.astype(np.float32), 1.0)


LABELS = "1=liver,4=spleen"


def page_of(cohort: Path, *, pictures: int = 100) -> str:
    run = read_run(cohort / "out")
    return render(cohort_page(run, [one for case in findings(run, pictures=pictures) for one in case]))


def test_nothing_is_outside_the_page(rich_cohort: Path, pages: SimpleNamespace) -> None:
    html = page_of(rich_cohort)
    seen = pages.parse(html)
    shown = pages.pictures(seen)
    assert len(shown) == len(seen.sources) > 20
    sheets = [alt.startswith("Slices of ") for alt in seen.alts]
    panels = [picture for picture, sheet in zip(shown, sheets, strict=True) if not sheet]
    assert all(picture.format == "JPEG" and max(picture.size) <= 224 for picture in panels)
    assert sum(sheets) == 3 + 6 * 2  # three scans; what was found and how probable it was, of six results
    assert len(html) < 6 * 110_000  # bytes, of six results
    assert all(alt and len(alt) > 5 for alt in seen.alts)
    inside = [link for link in seen.links if link.startswith("#")]
    assert inside
    assert all(link[1:] in seen.ids for link in inside)
    assert all((rich_cohort / "out" / link).is_file() for link in seen.links if link not in inside)
    assert sum("_seg-" in link for link in seen.links) == 6
    assert len(set(seen.ids)) == len(seen.ids)
    assert "default-src 'none'" in html


def test_headings_are_in_order(cohort: Path, pages: SimpleNamespace) -> None:
    seen = pages.parse(page_of(cohort))
    levels = [int(tag[1]) for tag, _ in seen.headings]
    assert levels[0] == 1
    assert max(b - a for a, b in pairwise(levels)) == 1
    titles = [text for _, text in seen.headings]
    assert titles[:4] == ["liver in 5 scans", "Look at these first", "All results", "Failures"]
    assert titles[-1] == "Weights and licenses"


def test_the_run_card(cohort: Path, pages: SimpleNamespace) -> None:
    seen = pages.parse(page_of(cohort))
    manifest = json.loads((cohort / "out/run.json").read_text(encoding="utf-8"))
    expected = ["3 scans segmented, 2 failed.", "Apache-2.0", "support_mode=nearest", "Seed7", "a" * 64]
    expected += [manifest["versions"]["torch"], "(median)", "For research use", "SD-FSMIS"]
    for text in expected:
        assert text in seen.text
    assert manifest["machine"]["host"] not in manifest["machine"]["system"]


def test_tables(rich_cohort: Path, pages: SimpleNamespace) -> None:
    found = pages.tables(page_of(rich_cohort))
    header, *rows = found["All results"]
    assert len(rows) == 6
    assert [row[0] for row in rows] == [str(n) for n in range(1, 7)]
    assert {(row[1], row[2]) for row in rows} == {
        (f"ct{n}", t) for n in range(3) for t in ("liver", "spleen")
    }
    absent = {row[1] for row in rows if row[header.index("found")] == "absent"}
    assert absent == {"ct2"}
    assert [row[0] for row in found["Failures"][1:]] == ["ct8", "ct9"]
    assert "the file is empty" in found["Failures"][1][2]
    first = found["Look at these first"][1:]
    assert first
    assert all(why for *_, why, _ in first)


def test_pictures_of_every_result(rich_cohort: Path, pages: SimpleNamespace) -> None:
    alts = pages.parse(page_of(rich_cohort)).alts
    for title, count in (("Probability", 6), ("Attention map", 4), ("Pseudo-healthy", 4), ("Residual", 4)):
        assert sum(alt.startswith(f"{title}. slice K") for alt in alts) == count
    assert sum(alt.startswith("Largest. slice K") for alt in alts) == 4
    assert sum(alt.startswith("Absent; most probable. slice K") for alt in alts) == 2


def test_absent_targets_are_a_sentence(rich_cohort: Path, pages: SimpleNamespace) -> None:
    text = pages.parse(page_of(rich_cohort)).text
    assert (
        text.count("No spleen was found (presence 0.") == text.count("No liver was found (presence 0.") == 1
    )


def test_the_sentence_that_the_batch_saved(cohort: Path, pages: SimpleNamespace) -> None:
    case = cohort / "out/ct2"
    (case / "ct2_evidence-liver.txt").write_text("No liver <tumor> was found.\n", encoding="utf-8")
    record = json.loads((case / "ct2_case.json").read_text(encoding="utf-8"))
    record["files"]["ct2_evidence-liver.txt"] = 28
    (case / "ct2_case.json").write_text(json.dumps(record), encoding="utf-8")
    html = page_of(cohort)
    assert "No liver <tumor> was found." in pages.parse(html).text
    assert 'href="ct2/ct2_evidence-liver.txt">evidence</a>' in html


def test_slices_to_scroll(rich_cohort: Path, pages: SimpleNamespace) -> None:
    html = page_of(rich_cohort)
    plans = [json.loads(unescape(plan)) for plan in re.findall(r'data-plan="([^"]*)"', html)]
    assert len(plans) == 6
    run = read_run(rich_cohort / "out")
    for plan, row in zip(plans, run.review, strict=True):
        assert plan["names"] == [f"slice K {k}" for k in range(6)]
        assert plan["unit"] == "HU"
        assert [one[0] for one in plan["windows"]] == ["soft tissue", "lung", "bone", "brain"]
        assert [one["name"] for one in plan["overlays"]] == ["found", "probability"]
        kind = "prob" if row["absent"] else "seg"
        shown = read(rich_cohort / f"out/{row['case']}/{row['case']}_{kind}-{row['target']}.nii.gz").array
        assert plan["first"] == shown.sum((0, 1)).argmax()
    run_, found = read_run(rich_cohort / "out"), []
    for case in findings(run_, pictures=9, room=Room(most=2)):
        found += case
    assert all(one.viewer and len(one.viewer.stack.names) <= 2 for one in found)
    assert all(one.viewer is None for case in findings(run_, pictures=9, room=Room(0)) for one in case)


def test_the_support_is_beside_the_result(cohort: Path, pages: SimpleNamespace) -> None:
    assert "Support. " not in " ".join(pages.parse(page_of(cohort)).alts)
    phantom = abdomen(seed=9, shape=(64, 64, 6))
    support = Support.from_volumes(phantom.image, phantom.labels, name="liver", label=1)
    support_path(cohort / "out", "liver").write_bytes(support_picture(support))
    assert sum(alt.startswith("Support. ") for alt in pages.parse(page_of(cohort)).alts) == 3


def test_what_files_are(cohort: Path) -> None:
    run = read_run(cohort / "out")
    names = [
        *("ct0_seg-liver.nii.gz", "ct0_seg-liver.dcm", "ct0_seg-spleen.nii.gz", "ct0_stats.json"),
        *("ct0_combined.nii.gz", "ct0_combined.dcm", "ct0_combined_sr.dcm", "labels.json"),
        *("sub-ct0_desc-latentseg_dseg.nii.gz", "sub-ct0_desc-latentseg_dseg.tsv", "ct0_preview-liver.png"),
    ]
    found = dict(run.files_of(Record("ct0", "", files=dict.fromkeys(names, 1)), "liver"))
    assert {title: path.name for title, path in found.items()} == {
        "mask": names[0],
        "DICOM SEG": names[1],
        "label map": names[4],
        "DICOM SEG of all targets": names[5],
        "BIDS dseg": names[8],
        "statistics": names[3],
    }


def test_links_from_elsewhere(cohort: Path, tmp_path: Path) -> None:
    """A page beside the run finds its masks; characters of names are quoted."""
    (cohort / "out").rename(tmp_path / "a run")
    assert main(["report", str(tmp_path / "a run"), "-o", str(tmp_path / "pages/page.html")]) == 0
    html = (tmp_path / "pages/page.html").read_text(encoding="utf-8")
    assert 'href="../a%20run/ct0/ct0_seg-liver.nii.gz">mask</a>' in html


def test_a_run_of_an_earlier_version(cohort: Path, pages: SimpleNamespace) -> None:
    """Its records hold neither diameters nor intensities."""
    for path in (cohort / "out").glob("ct?/*_case.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        later = ("intensity", "bounding", "largest")
        for row in record["targets"]:
            for name in [name for name in row if name.startswith(later)]:
                del row[name]
        path.write_text(json.dumps(record), encoding="utf-8")
    header, *rows = pages.tables(page_of(cohort))["All results"]
    assert {row[header.index("diameter mm")] for row in rows} == {"–"}


def test_pictures_of_the_first_only(cohort: Path, pages: SimpleNamespace) -> None:
    html = page_of(cohort, pictures=1)
    assert "2 without pictures" in html
    assert html.index("data:image") > html.index("1. ct")
    assert "<figure" not in html[html.index("2. ct") :]
    assert html.count("data-plan") == html.count('id="stack-') == 1
    assert "data:image" not in page_of(cohort, pictures=0)


def test_slices_are_those_of_the_file(cohort: Path) -> None:
    run = read_run(cohort / "out")
    finding = next(one for case in findings(run, pictures=9) for one in case if one.row["case"] == "ct0")
    mask = read(cohort / "out/ct0/ct0_seg-liver.nii.gz").array
    assert finding.panels[0].caption == f"slice K {mask.sum((0, 1)).argmax()}"
    worst = [panel.caption for panel in finding.panels if panel.title == "Most uncertain"]
    assert worst in ([], [f"slice K {finding.row['worst_slice']}"])


def test_a_scan_that_is_gone(cohort: Path, pages: SimpleNamespace) -> None:
    (cohort / "in/ct0.nii.gz").unlink()
    html = page_of(cohort)
    assert "No pictures of the scan: E300 no such file" in html
    assert sum(alt == "Preview. as saved" for alt in pages.parse(html).alts) == 1


def test_a_scan_that_was_replaced(cohort: Path) -> None:
    image = nib.load(cohort / "in/ct0.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), cohort / "in/ct0.nii.gz")
    assert "E310 the result is on another grid than the scan" in page_of(cohort)


def test_results_that_were_lost(cohort: Path) -> None:
    (cohort / "out/ct1/ct1_seg-liver.nii.gz").unlink()
    html = page_of(cohort)
    assert "Files are gone or were changed since the batch: ct1_seg-liver.nii.gz." in html


def test_a_saved_picture_that_is_damaged(cohort: Path) -> None:
    (cohort / "in/ct0.nii.gz").unlink()
    picture = cohort / "out/ct0/ct0_preview-liver.png"
    picture.write_bytes(bytes(picture.stat().st_size))
    assert "A saved picture is damaged: cannot identify image file" in page_of(cohort)


def test_a_run_from_elsewhere(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in the records are meant from where the batch was started."""
    for path in (cohort / "out").glob("ct?/*_case.json"):
        path.write_text(
            path.read_text(encoding="utf-8").replace(f'"image": "{cohort}/', '"image": "'), encoding="utf-8"
        )
    manifest = cohort / "out/run.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | {"folder": str(cohort)}),
        encoding="utf-8",
    )
    monkeypatch.chdir("/")
    run = read_run(cohort / "out")
    assert {record.image for record in run.done} == {f"in/ct{n}.nii.gz" for n in range(3)}
    assert "No pictures" not in page_of(cohort)


def test_shards_and_interruptions(cohort: Path) -> None:
    out = cohort / "out"
    manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    for part, status in (("0/2", "finished"), ("1/2", "interrupted")):
        name = f"run_shard-{part.replace('/', '-of-')}.json"
        (out / name).write_text(json.dumps(manifest | {"shard": part, "status": status}), encoding="utf-8")
    (out / "run.json").unlink()
    html = page_of(cohort)
    assert "The run did not come to its end (interrupted): scans may be missing." in html
    assert "0/2, 1/2" in html
    assert html.count("support_mode=nearest") == 1


def test_a_failure_that_left_no_record(cohort: Path, pages: SimpleNamespace) -> None:
    shutil.rmtree(cohort / "out/ct8")
    assert [row[0] for row in pages.tables(page_of(cohort))["Failures"][1:]] == ["ct8", "ct9"]
    (cohort / "out/failures.csv").unlink()
    assert [row[0] for row in pages.tables(page_of(cohort))["Failures"][1:]] == ["ct9"]


@pytest.mark.parametrize("content", ["{", '{"case": "ct0"}', "[]", "whole"])
def test_a_damaged_record_is_a_failure(cohort: Path, pages: SimpleNamespace, content: str) -> None:
    path = cohort / "out/ct0/ct0_case.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    del whole["targets"][0]["presence"]
    path.write_text(json.dumps(whole) if content == "whole" else content, encoding="utf-8")
    failures = pages.tables(page_of(cohort))["Failures"][1:]
    assert failures[0][:3] == ["ct0", "E300", "the record of this case is damaged"]
    assert len(failures) == 3


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"methods": 1}', '{"methods": [1]}', "\x00"),
        *('{"methods": [], "machine": 1}', '{"methods": [{"files": []}]}', '{"methods": [{"targets": 1}]}'),
    ],
)
def test_a_damaged_manifest(cohort: Path, content: str) -> None:
    (cohort / "out/run.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="the manifest is damaged") as caught:
        read_run(cohort / "out")
    assert "--resume" in caught.value.fix


def test_a_manifest_that_says_little(cohort: Path) -> None:
    (cohort / "out/run.json").write_text('{"methods": [{}]}', encoding="utf-8")
    html = page_of(cohort)
    assert "did not come to its end" in html
    assert "latentseg ?" in html


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there is no run\.json"):
        read_run(tmp_path)


def test_names_are_escaped(cohort: Path, pages: SimpleNamespace) -> None:
    manifest = json.loads((cohort / "out/run.json").read_text(encoding="utf-8"))
    manifest["methods"][0]["targets"] = ['<b onclick="x">']
    manifest["command"] = ["latentseg", "<script>"]
    (cohort / "out/run.json").write_text(json.dumps(manifest), encoding="utf-8")
    html = page_of(cohort)
    assert '<b onclick="x">' not in html
    assert "<script>'" not in html
    assert '<b onclick="x">' in pages.parse(html).text


def test_metrics_with_intervals(rich_cohort: Path, pages: SimpleNamespace, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ["--truth", str(rich_cohort / "truth"), "--labels", LABELS, "-o", str(page)]
    assert main(["report", str(rich_cohort / "out"), *words]) == 0
    found = pages.tables(page.read_text(encoding="utf-8"))
    header, *rows = found["Against the truth"]
    assert header == ["metric", "liver", "spleen"]
    cells = {row[0]: row[1] for row in rows}
    per_case = [float(r[3]) for r in found["All results"][1:] if r[2] == "liver"]
    mean, low, high = map(float, re.findall(r"[\d.]+", cells["Dice %"]))
    assert mean == pytest.approx(np.mean(per_case), abs=0.1)
    assert min(per_case) <= low <= mean <= high <= max(per_case)
    assert (cells["scans with it"], cells["scans without"], cells["absent FPR %"]) == ("3", "0", "–")
    assert "Cases that failed: 2." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["flat", "beside", "folder", "labels", "dataset"])
def test_layouts_of_the_truth(cohort: Path, layout: str) -> None:
    """The same masks, in every layout."""
    folder, labels = cohort / "masks", None
    for number in range(3):
        image = nib.load(cohort / f"truth/ct{number}.nii.gz")
        liver = nib.Nifti1Image((np.asarray(image.dataobj) == 1).astype(np.uint8), image.affine)
        name = {"flat": "ct{}", "beside": "ct{0}/ct{0}_seg-liver", "folder": "liver/ct{}"}.get(layout, "ct{}")
        path = folder / f"{name.format(number)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(liver if layout in ("flat", "beside", "folder") else image, path)
    if layout == "labels":
        labels = "1=Liver"
    if layout == "dataset":
        (folder / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}', encoding="utf-8")
    run = read_run(cohort / "out")
    truth = find_truth(folder, run=read_run(cohort / "out"), labels=labels)
    scores = [one.score for case in findings(run, truth=truth, pictures=0) for one in case]
    expected = find_truth(cohort / "truth", run=read_run(cohort / "out"), labels="1=liver")
    assert scores == [one.score for case in findings(run, truth=expected, pictures=0) for one in case]
    assert all(score is not None and score.present for score in scores)


def test_truth_on_another_grid(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nib.load(cohort / "truth/ct1.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :-1], image.affine), cohort / "truth/ct1.nii.gz")
    words = ["report", str(cohort / "out"), "--truth", str(cohort / "truth"), "--labels", "1=liver"]
    assert main(words) == 6
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith("ct1: E310 prediction and truth are on different grids: 40x36x6")
    assert error[1].startswith("E600 1 of 3 results could not be compared with the truth")
    html = (cohort / "out/report.html").read_text(encoding="utf-8")
    assert "Not compared with the truth: E310" in html
    assert "Truth that cannot be used: ct1." in html


def test_truth_that_is_damaged_or_of_no_mask(cohort: Path) -> None:
    (cohort / "truth/ct0.nii.gz").write_bytes(b"x")
    (cohort / "out/ct1/ct1_seg-liver.nii.gz").unlink()
    truth = find_truth(cohort / "truth", run=read_run(cohort / "out"), labels="1=liver")
    run = read_run(cohort / "out")
    problems = [one.problem for case in findings(run, truth=truth, pictures=0) for one in case]
    assert problems[0].startswith("E300")
    assert "no such file" in problems[1]
    assert problems[2] == ""


def test_dicom_with_contours_of_its_own(tmp_path: Path, made: Path, pages: SimpleNamespace) -> None:
    """A study with two series; the truth is a SEG, on the grid of one of them."""
    phantom = abdomen(seed=0, shape=(40, 36, 6))
    for number in (1, 2):
        save_slices(slice_datasets(phantom.image, series_number=number), tmp_path / f"in/study/{number}")
    (tmp_path / "jobs.csv").write_text("image,case,series\nin/study,ct0,2\n", encoding="utf-8")
    task = Task(Fixed(phantom.labels.array == 1), ("liver",))
    cases = find_cases(tmp_path / "jobs.csv")
    run_batch([task], cases=cases, out=tmp_path / "out", options=BatchOptions(("mask", "prob")))
    (tmp_path / "truth").mkdir()
    shutil.copy(tmp_path / "out/ct0/ct0_seg-liver.dcm", tmp_path / "truth/ct0.dcm")
    run = read_run(tmp_path / "out")
    truth = find_truth(tmp_path / "truth", run=run)
    ((found,),) = findings(run, truth=truth, pictures=1)
    assert found.notes == ()
    assert found.score is not None
    assert found.score.dice == 1
    assert found.score.present
    assert found.panels[0].title == "Largest"


def test_truth_of_some_cases(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort / "truth/ct2.nii.gz").unlink()
    words = ["report", str(cohort / "out"), "--truth", str(cohort / "truth"), "--labels", "1=liver"]
    assert main(words) == 0
    assert "warning: no truth of 1 cases, which are not in the means: ct2" in capsys.readouterr().err
    assert "No truth: ct2." in (cohort / "out/report.html").read_text(encoding="utf-8")


def test_the_tolerance_of_nsd(cohort: Path) -> None:
    run = read_run(cohort / "out")
    truth = find_truth(cohort / "truth", run=run, labels="1=liver")
    nsd = []
    for tolerance in (0.0, 50.0):
        read = findings(run, truth=truth, metrics=MetricOptions(tolerance_mm=tolerance), pictures=0)
        nsd.append([one.score.nsd for case in read for one in case if one.score])
    assert all(strict <= forgiving for strict, forgiving in zip(*nsd, strict=True))
    assert sum(nsd[0]) < sum(nsd[1])
    words = ["report", str(cohort / "out"), "--truth", str(cohort / "truth"), "--labels", "1=liver"]
    assert main([*words, "--tolerance-mm", "3"]) == 0
    assert "NSD forgives 3 mm." in (cohort / "out/report.html").read_text(encoding="utf-8")
    assert main([*words, "--tolerance-mm", "-1"]) == 2


def test_truth_of_no_case(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no truth of any of 3 cases"):
        find_truth(tmp_path / "empty", run=read_run(cohort / "out"))
    with pytest.raises(InputError, match="no such folder"):
        find_truth(cohort / "nowhere", run=read_run(cohort / "out"))


def test_predictions_are_no_truth_of_themselves(cohort: Path) -> None:
    for folder in (cohort / "out", cohort):
        with pytest.raises(InputError, match="there is no truth of any of 3 cases"):
            find_truth(folder, run=read_run(cohort / "out"))


def test_labels_that_are_not_named(cohort: Path, made: Path) -> None:
    truth = find_truth(cohort / "truth", run=read_run(cohort / "out"))
    with pytest.raises(UsageError, match="and nothing says which is 'liver'"):
        list(findings(read_run(cohort / "out"), truth=truth, pictures=0))
    with pytest.raises(UsageError, match="no label is called 'liver', only lung"):
        find_truth(cohort / "truth", run=read_run(cohort / "out"), labels="1=lung")
    with pytest.raises(UsageError, match="nothing says which label is 'liver'"):
        find_truth(cohort / "truth", run=read_run(made / "rich/out"))


def test_a_batch_without_masks(cohort: Path) -> None:
    for path in (cohort / "out").glob("*/*_case.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["files"] = {name: size for name, size in record["files"].items() if "_seg-" not in name}
        path.write_text(json.dumps(record), encoding="utf-8")
    truth = find_truth(cohort / "truth", run=read_run(cohort / "out"), labels="1=liver")
    found = [one for case in findings(read_run(cohort / "out"), truth=truth, pictures=9) for one in case]
    assert all("no mask was saved" in one.problem for one in found)
    assert all(one.panels for one in found)


def test_nothing_but_failures(cohort: Path, pages: SimpleNamespace) -> None:
    for number in range(3):
        shutil.rmtree(cohort / f"out/ct{number}")
    found = pages.tables(page_of(cohort))
    assert set(found) == {"Failures", "Weights and licenses"}

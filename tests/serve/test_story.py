"""The whole story through the interface: open, paint, find, correct, accept, take away, and start again."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from helpers.workbench import make_client, mask_of
from latentseg.imaging import read, read_labels
from latentseg.serve.workbench import Workbench


def test_the_story(
    client, bench, options, opened, paint, finish, truth, other_file: Path, tmp_path: Path
) -> None:
    scan, shape = opened["id"], tuple(opened["shape"])
    other = client.post("/api/scans", json={"path": str(other_file)}).json()
    drawn = paint(3).json()["targets"][0]
    assert drawn["drawn"] == [3]
    jobs = client.post("/api/jobs", json={"scans": [scan], "targets": [1]})
    assert jobs.status_code == 202, jobs.text
    (job,) = finish(jobs.json())
    assert (job["state"], job["error"]) == ("done", None)
    row = client.get(f"/api/scans/{scan}").json()["targets"][0]
    assert row["found"]
    assert row["doubt"] >= 0
    found = mask_of(client.get(f"/api/scans/{scan}/masks/1"), shape)
    assert np.array_equal(found[:, :, 3], truth[:, :, 3])  # what was drawn stands

    paint(1, 2)
    (job,) = finish(client.post("/api/jobs", json={"scans": [scan], "targets": [1]}).json())
    assert job["state"] == "done"
    comparison = client.get(f"/api/scans/{scan}/comparison/1").json()
    assert 0 <= comparison["dice"] <= 1
    judged = client.put(f"/api/scans/{scan}/verdicts/1", json={"verdict": "accepted"}).json()
    assert judged["scan"]["doubt"] is None
    assert [job["scan"] for job in judged["jobs"]] == [other["id"]]  # it learns: the other scan is searched
    assert [job["state"] for job in finish(judged["jobs"])] == ["done"]
    ranked = [row["id"] for row in client.get("/api/scans").json()]
    assert ranked == [other["id"], scan]

    packed = client.get(f"/api/scans/{scan}/export/nifti")
    assert packed.headers["content-disposition"] == 'attachment; filename="ct.zip"'
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        archive.extractall(tmp_path / "taken")
    mask = read_labels(
        tmp_path / "taken" / "ct_seg-liver.nii.gz", like=read(Path(options.data[0]) / "ct.nii.gz")
    )
    assert mask.array.any()
    assert b"liver" in client.get(f"/api/scans/{scan}/export/report").content
    before = client.get("/api/scans").json()
    again = Workbench(options)
    assert again.scan_rows() == [bench.scan_row(bench.project.scan(row["id"])) for row in before]
    events = [event["what"] for event in client.get("/api/journal").json()]
    assert events == ["added a target", "added a scan", "added a scan", "drew", "drew", "accepted"]
    assert {event["who"] for event in client.get("/api/journal").json()} == {"tester"}


def test_undo_and_forget(client, opened, paint, truth) -> None:
    scan, shape = opened["id"], tuple(opened["shape"])
    paint(2)
    paint(2, empty=True)
    assert not mask_of(client.get(f"/api/scans/{scan}/masks/1"), shape).any()
    assert client.post(f"/api/scans/{scan}/undo").json() == {"target": 1, "slices": [2]}
    assert np.array_equal(mask_of(client.get(f"/api/scans/{scan}/masks/1"), shape)[:, :, 2], truth[:, :, 2])
    row = client.delete(f"/api/scans/{scan}/drawings/1?slices=2,3").json()
    assert row["targets"][0]["drawn"] == []
    assert client.post(f"/api/scans/{scan}/undo").json()["slices"] == [2]
    assert client.post(f"/api/scans/{scan}/undo").json()["slices"] == [2]
    assert client.get(f"/api/scans/{scan}").json()["targets"][0]["drawn"] == []
    assert client.post(f"/api/scans/{scan}/undo").json() == {"target": None, "slices": []}


def test_a_scan_that_somebody_looks_at_is_prepared_once(client, opened, paint, finish, monkeypatch) -> None:
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter

    prepared = []
    prepare = FewShotSegmenter.prepare
    monkeypatch.setattr(
        FewShotSegmenter, "prepare", lambda self, scan: prepared.append(scan.name) or prepare(self, scan)
    )
    client.get(f"/api/scans/{opened['id']}/image").raise_for_status()
    paint(3)
    for _ in range(600):
        if prepared:
            break
        time.sleep(0.1)
    assert prepared == ["ct"]  # nobody has asked yet
    (job,) = finish(client.post("/api/jobs", json={"scans": [opened["id"]], "targets": [1]}).json())
    assert (job["state"], prepared) == ("done", ["ct"])


def test_whose_drawing_it_is(client, opened) -> None:
    client.post("/api/targets", json={"name": "spleen"}, headers={"X-User": quote("Dr. Żak")})
    assert client.get("/api/journal", params={"last": 1}).json()[0]["who"] == "Dr. Żak"


def test_drawing_opens_a_verdict_again(client, opened, paint) -> None:
    paint(2)
    client.put(f"/api/scans/{opened['id']}/verdicts/1", json={"verdict": "accepted", "learn": False})
    assert paint(3).json()["targets"][0]["verdict"] == "none"


def test_between_drawn_slices(client, opened, paint) -> None:
    paint(1)
    paint(4)
    row = client.post(f"/api/scans/{opened['id']}/interpolate/1").json()
    assert row["targets"][0]["drawn"] == [1, 2, 3, 4]
    answer = client.post(f"/api/scans/{opened['id']}/interpolate/1")
    assert answer.status_code == 400
    assert "nothing to fill" in answer.json()["sentence"]


def test_a_compressed_drawing(client, opened, truth) -> None:
    body = gzip.compress(truth[:, :, [2]].astype(np.uint8).tobytes(order="F"))
    where = f"/api/scans/{opened['id']}/drawings/1?slices=2"
    assert client.put(where, content=body, headers={"Content-Encoding": "gzip"}).status_code == 200
    bomb = gzip.compress(bytes(50_000_000))
    answer = client.put(where, content=bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "has" in answer.json()["what"]) == (400, True)
    assert (
        client.put(where, content=b"\x1f\x8bnonsense", headers={"Content-Encoding": "gzip"}).status_code
        == 400
    )


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "says"),
    [
        ("PUT", "/drawings/1?slices=2", b"short", 400, "bytes"),
        ("PUT", "/drawings/1?slices=99", None, 400, "does not fit"),
        ("PUT", "/drawings/1?slices=2,2", None, 400, "twice"),
        ("PUT", "/drawings/9?slices=2", None, 404, "no target"),
        ("PUT", "/drawings/1?slices=x", None, 422, "pattern"),
        ("GET", "/probability/1", None, 404, "not looked for"),
        ("GET", "/comparison/1", None, 404, "nothing was found"),
        ("GET", "/export/nifti", None, 404, "nothing was drawn"),
        ("GET", "/export/dicom-seg", None, 404, "nothing was drawn"),
        ("GET", "/evidence/1/residual", None, 404, "no residual"),
        ("GET", "/masks/7", None, 404, "no target"),
    ],
)
def test_mistakes_are_sentences(client, opened, method, path, content, status, says) -> None:
    if content is None and method == "PUT":
        content = bytes(opened["shape"][0] * opened["shape"][1])
        content = content * 2 if "2,2" in path else content
    answer = client.request(method, f"/api/scans/{opened['id']}{path}", content=content)
    assert (answer.status_code, says in answer.json()["sentence"]) == (status, True), answer.text


def test_nobody_has_shown_it(client, opened) -> None:
    answer = client.post("/api/jobs", json={"scans": [opened["id"]], "targets": [1]})
    assert answer.status_code == 400
    assert "nobody has shown liver yet" in answer.json()["sentence"]


def test_targets(client) -> None:
    liver = client.post("/api/targets", json={"name": " liver "}).json()
    assert (liver["name"], liver["code"]["value"]) == ("liver", "10200004")
    assert client.post("/api/targets", json={"name": "Liver"}).status_code == 400
    assert client.post("/api/targets", json={"name": "t", "prompt": "please"}).status_code == 400
    tumor = client.post("/api/targets", json={"name": "tumor", "prompt": "liver tumor"}).json()
    changed = client.patch(f"/api/targets/{tumor['id']}", json={"color": "#123456"}).json()
    assert (changed["color"], changed["name"]) == ("#123456", "tumor")
    assert client.patch("/api/targets/2", json={"name": "liver"}).status_code == 400


def test_uploads(client, scan_file: Path, options) -> None:
    answer = client.post("/api/scans/upload?name=up.nii.gz", content=scan_file.read_bytes())
    assert answer.status_code == 201, answer.text
    scan = answer.json()["id"]
    assert client.get(f"/api/scans/{scan}/image").content[:4] == b"\x5c\x01\x00\x00"
    assert client.delete(f"/api/scans/{scan}").status_code == 204
    assert client.get(f"/api/scans/{scan}").status_code == 404
    assert client.post("/api/scans/upload?name=a.nii.gz", content=b"").status_code == 400
    assert client.post("/api/scans/upload?name=a.nii.gz", content=b"no image").status_code == 400
    assert list((options.project / "incoming").iterdir()) == []


def test_a_dicom_series(client, bench, finish, searched, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="needs the extra [dicom]")
    import highdicom

    from helpers.dicom_files import save_slices, slice_datasets
    from latentseg.serve.view import View

    save_slices(slice_datasets(searched.image), tmp_path / "data" / "series")
    scan = client.post("/api/scans", json={"path": str(tmp_path / "data" / "series")}).json()
    assert scan["dicom"]
    client.post("/api/targets", json={"name": "liver"})
    volume = bench.project.scan(scan["id"]).read()
    liver = View.of(volume).apply(read(tmp_path / "data" / "series").array > 0)[:, :, [3]]
    where = f"/api/scans/{scan['id']}/drawings/1?slices=3"
    client.put(where, content=liver.astype(np.uint8).tobytes(order="F")).raise_for_status()
    answer = client.get(f"/api/scans/{scan['id']}/export/dicom-seg")
    assert answer.status_code == 200, answer.text
    segments = highdicom.seg.segread(io.BytesIO(answer.content))
    assert [segment.SegmentLabel for segment in segments.SegmentSequence] == ["liver"]
    assert segments.get_volume().array.sum() == liver.sum()


def test_stopping(client, bench, opened, paint, monkeypatch) -> None:
    import threading

    begun = threading.Event()

    def endless(scan, targets, caller) -> None:
        begun.set()
        caller.stop.wait(30)
        from latentseg.errors import Interrupted

        raise Interrupted("stopped")

    monkeypatch.setattr(bench.engine, "find", endless)
    paint(3)
    (job,) = client.post("/api/jobs", json={"scans": [opened["id"]], "targets": [1]}).json()
    assert begun.wait(10)
    assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "stopped"
    assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "stopped"


def test_a_failure_is_a_sentence(client, bench, opened, paint, finish, scan_file: Path) -> None:
    paint(3)
    scan_file.unlink()
    (job,) = finish(client.post("/api/jobs", json={"scans": [opened["id"]], "targets": [1]}).json())
    assert job["state"] == "failed"
    assert job["error"]["code"] == "E300"
    assert "no such file" in job["error"]["sentence"]


def test_another_server_goes_on(options, opened, paint, client) -> None:
    from dataclasses import replace

    from latentseg.serve.jobs import Job
    from latentseg.serve.json_files import write_json

    paint(3)
    running = Job("0123456789ab", opened["id"], (1,), state="running", starts=1, made="2026-01-01")
    dead = replace(running, id="ba9876543210", starts=3)
    for job in (running, dead):
        write_json(options.project / "jobs" / f"{job.id}.json", vars(job))
    again = Workbench(options)
    assert again.queue.get("0123456789ab").state == "queued"
    assert again.queue.get("ba9876543210").state == "failed"
    assert "ended 3 times" in again.queue.get("ba9876543210").error["sentence"]
    with make_client(again) as other:
        for _ in range(300):
            state = other.get("/api/jobs/0123456789ab").json()["state"]
            if state == "done":
                break
            time.sleep(0.1)
    assert state == "done"


def test_the_typed_client(client, opened, truth, scan_file: Path, tmp_path: Path) -> None:
    from latentseg.errors import InputError, UsageError
    from latentseg.serve.client import Client

    bench = Client("http://127.0.0.1:8471/#token=unused")
    bench.http.close()
    bench.http = client
    assert bench.project().targets[0].name == "liver"
    scan = bench.upload(scan_file)
    with pytest.raises(UsageError, match="nobody has shown"):
        bench.find([scan.id], [1])
    with pytest.raises(InputError, match="no such scan"):
        bench.scan("0123456789ab")
    bench.draw(scan.id, 1, {2: truth[:, :, 2], 4: truth[:, :, 4]})
    assert np.array_equal(bench.mask(scan.id, 1)[:, :, 4], truth[:, :, 4])
    assert [job.state for job in bench.wait(bench.find([scan.id], [1]))] == ["done"]
    bench.wait(bench.find([scan.id], [1]))
    assert bench.compare(scan.id, 1).dice == 1
    assert bench.judge(scan.id, 1, "accepted", learn=False).scan.doubt is None
    assert bench.export(scan.id, "nifti")[:2] == b"PK"
    assert {row.id for row in bench.scans()} == {scan.id, opened["id"]}
    assert bench.journal(1)[0].what == "accepted"

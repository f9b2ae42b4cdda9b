"""DICOMweb against an Orthanc of its own."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("dicomweb_client", reason="needs dicomweb-client")
pytest.importorskip("highdicom", reason="needs the extra [dicom]")

from helpers.dicom_files import save_slices, slice_datasets
from helpers.workbench import make_client
from latentseg.serve.workbench import Workbench

PLUGINS = Path("/usr/share/orthanc/plugins")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """The root of the DICOMweb services of an Orthanc that holds nothing."""
    import httpx

    program = shutil.which("Orthanc")
    if program is None or not (PLUGINS / "libOrthancDicomWeb.so").exists():
        pytest.skip("no Orthanc with its DICOMweb plugin here (Debian: orthanc, orthanc-dicomweb)")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    settings = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[0]}"
    for _ in range(300):
        try:
            httpx.get(f"{address}/system")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    yield f"{address}/dicom-web"
    process.terminate()
    process.wait()


def test_a_series_comes_and_a_result_goes(options, orthanc: str, searched, tmp_path: Path) -> None:
    import pydicom
    from dicomweb_client.api import DICOMwebClient

    archive = DICOMwebClient(url=orthanc)
    slices = save_slices(slice_datasets(searched.image), tmp_path / "slices")
    archive.store_instances([pydicom.dcmread(path) for path in slices])
    bench = Workbench(replace(options, dicomweb=orthanc))
    with make_client(bench) as client:
        (row,) = client.get("/api/dicomweb/series").json()
        assert row["modality"] == "CT"
        uids = {name: row[name] for name in ("study", "series")}
        answer = client.post("/api/scans/dicomweb", json=uids)
        assert answer.status_code == 201, answer.text
        scan = answer.json()
        assert sorted(scan["shape"]) == sorted(searched.image.shape)
        client.post("/api/targets", json={"name": "liver"})
        x, y, _ = scan["shape"]
        square = np.zeros((x, y), np.uint8)
        square[20:40, 20:30] = 1
        where = f"/api/scans/{scan['id']}/drawings/1?slices=3"
        client.put(where, content=square.tobytes(order="F")).raise_for_status()
        stored = client.post(f"/api/scans/{scan['id']}/store")
        assert stored.status_code == 204, stored.text
        missing = client.post("/api/scans/dicomweb", json={"study": "1.2", "series": "1.3"})
        assert missing.status_code == 400
    import highdicom

    (segments,) = archive.retrieve_series(row["study"], series_of(archive, row["study"], "SEG"))
    stream = io.BytesIO()
    segments.save_as(stream, enforce_file_format=True)
    read = highdicom.seg.segread(io.BytesIO(stream.getvalue()))
    assert read.get_volume().array.sum() == square.sum()


def series_of(archive, study: str, modality: str) -> str:
    rows = archive.search_for_series(study, search_filters={"Modality": modality})
    return str(rows[0]["0020000E"]["Value"][0])


def test_a_server_that_does_not_answer(options) -> None:
    with make_client(Workbench(replace(options, dicomweb="http://127.0.0.1:9/dicom-web"))) as client:
        answer = client.get("/api/dicomweb/series")
        assert (answer.status_code, "does not answer" in answer.json()["sentence"]) == (400, True)


def test_no_server_was_named(client) -> None:
    answer = client.get("/api/dicomweb/series")
    assert (answer.status_code, "no DICOMweb server" in answer.json()["sentence"]) == (400, True)

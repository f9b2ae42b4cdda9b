"""Who may ask, from where, and how much."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from helpers.workbench import ADDRESS, TOKEN, make_client
from latentseg.errors import InputError
from latentseg.serve.admission import check_admitted, dicom_bytes, nifti_bytes
from latentseg.serve.settings import Limits
from latentseg.serve.workbench import Workbench

SMALL = Limits(upload_bytes=100_000, body_bytes=10_000, volume_bytes=1_000_000)


@pytest.mark.parametrize(
    "path", ["/api/project", "/api/openapi.json", "/api/events", "/nothing", "/monai/info/"]
)
@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token(client, path: str, token: str) -> None:
    answer = client.get(path, headers={"Authorization": token})
    assert answer.status_code == 401
    assert "token" in answer.json()["sentence"]


def test_what_needs_no_token(client) -> None:
    for path in ("/", "/api/health"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost:8472", "127.0.0.1.evil:8471"]
)
def test_another_host(client, host: str) -> None:
    answer = client.get("/api/project", headers={"Host": host})
    assert (answer.status_code, "another host" in answer.json()["sentence"]) == (403, True)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8471", "http://127.0.0.1:80"]
)
def test_another_page(client, origin: str) -> None:
    answer = client.post("/api/targets", json={"name": "liver"}, headers={"Origin": origin})
    assert (answer.status_code, "another page" in answer.json()["sentence"]) == (403, True)
    assert client.get("/", headers={"Origin": origin}).status_code == 403


def test_a_page_that_was_named(options) -> None:
    named, asked = {"Origin": "https://ohif.lan"}, "Access-Control-Request-Method"
    with make_client(Workbench(replace(options, origins=("https://ohif.lan",)))) as client:
        before = client.options("/monai/info/", headers={**named, asked: "GET", "Authorization": ""})
        assert before.headers["access-control-allow-origin"] == "https://ohif.lan"
        answer = client.get("/monai/info/", headers=named)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://ohif.lan",
        )
        assert client.get("/monai/info/", headers={**named, "Authorization": ""}).status_code == 401
        assert client.get("/monai/info/", headers={"Origin": "https://evil.lan"}).status_code == 403


def test_the_own_page(client) -> None:
    for host in ("localhost:8471", "127.0.0.1:8471", "[::1]:8471"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert client.get("/api/project", headers=headers).status_code == 200


def test_no_page_may_frame_it_or_load_from_elsewhere(client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert client.get("/api/health").headers["x-content-type-options"] == "nosniff"


def test_limits_of_bodies(options) -> None:
    with make_client(Workbench(replace(options, limits=SMALL))) as client:
        assert client.post("/api/targets", content=b"x" * 20_000).status_code == 413
        assert client.post("/api/scans/upload?name=a.nii", content=b"x" * 200_000).status_code == 413

        def pieces():
            for _ in range(100):
                yield b"x" * 5_000

        answer = client.post("/api/scans/upload?name=a.nii", content=pieces())  # no length is told
        assert answer.status_code == 413
        assert list((options.project / "incoming").iterdir()) == []
        assert client.get("/api/project?" + "x" * 10_000).status_code == 413


def test_paths_outside(client, tmp_path: Path) -> None:
    (tmp_path / "secret.nii.gz").write_bytes(b"x")
    for path in (
        f"{tmp_path}/secret.nii.gz",
        f"{tmp_path}/data/../secret.nii.gz",
        "/etc/passwd",
        "/proc/self/mem",
    ):
        answer = client.post("/api/scans", json={"path": path})
        assert (answer.status_code, "no such file" in answer.json()["sentence"]) == (400, True)
        assert client.get("/api/files", params={"folder": path}).status_code == 400


def test_a_nifti_that_promises_too_much(tmp_path: Path) -> None:
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30_000, 30_000, 30_000))
    for name in ("bomb.nii", "bomb.nii.gz"):
        import gzip

        content = header.binaryblock + bytes(4)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert nifti_bytes(tmp_path / name) == 4 * 30_000**3
        with pytest.raises(InputError, match="more than 2048 MB"):
            check_admitted(tmp_path / name, Limits())


def test_archives_that_grow(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(50_000_000))
    with pytest.raises(InputError, match="times its size"):
        check_admitted(bomb, Limits())
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("inner.zip", b"PK")
    with pytest.raises(InputError, match="other archives"):
        check_admitted(bomb, Limits())
    with zipfile.ZipFile(bomb, "w") as archive:
        for number in range(30):
            archive.writestr(f"{number}.dcm", b"x")
    with pytest.raises(InputError, match="30 files"):
        check_admitted(bomb, Limits(archive_files=10))


def test_a_dicom_that_promises_too_much(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")

    def write(frames: int) -> Path:
        dataset = pydicom.Dataset()
        dataset.Rows = dataset.Columns = 60_000
        dataset.NumberOfFrames, dataset.BitsAllocated = frames, 16
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.preamble = bytes(128)
        dataset.save_as(tmp_path / "bomb.dcm", enforce_file_format=False)
        return tmp_path / "bomb.dcm"

    assert dicom_bytes(write(400)) == 60_000 * 60_000 * 400 * 2
    with pytest.raises(InputError, match="memory"):
        check_admitted(tmp_path / "bomb.dcm", Limits())
    with pytest.raises(InputError, match="10000000 frames"):
        dicom_bytes(write(10_000_000))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 90000 90000 90000\n\n"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 90000 90000 90000\n"),
    ],
)
def test_text_headers_that_promise_too_much(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="memory"):
        check_admitted(tmp_path / name, Limits())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.png"])
def test_headers_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of that kind" * 40)
    with pytest.raises(InputError):
        check_admitted(tmp_path / name, Limits())


def test_other_machines_need_a_token(capsys, monkeypatch) -> None:
    from latentseg.cli import main

    monkeypatch.delenv("LATENTSEG_TOKEN", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--no-browser"]) == 2  # noqa: S104
    assert "give --token" in capsys.readouterr().err.lower()


def test_a_port_that_is_taken(capsys, tmp_path: Path) -> None:
    import socket

    from latentseg.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(tmp_path / "p"), "--port", port, "--no-browser"]) == 3
    assert "cannot listen" in capsys.readouterr().err


def test_addresses(options) -> None:
    far = replace(options, host="0.0.0.0", names=("Server.lan",))  # noqa: S104
    assert far.address == options.address
    assert far.hosts == options.hosts | {"server.lan:8471"}
    assert options.address == f"{ADDRESS}/#token={TOKEN}"
    assert TOKEN not in repr(options)

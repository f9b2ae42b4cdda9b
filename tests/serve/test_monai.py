"""The protocol of MONAI Label, as its own client speaks it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("multipart", reason="needs python-multipart")

from helpers.workbench import TOKEN
from latentseg.imaging import read, write_like


@pytest.fixture
def label_file(searched, scan_file: Path, tmp_path: Path) -> Path:
    """The liver and the spleen of the phantom, as one label map on the grid of its file."""
    names = {name: value for value, name in searched.names.items()}
    labels = np.where(searched.labels.array == names["liver"], 1, 0)
    labels[searched.labels.array == names["spleen"]] = 2
    return write_like(labels.astype(np.uint8), like=read(scan_file), path=tmp_path / "label.nii.gz")


def test_a_session_as_a_viewer_has_it(
    client, scan_file: Path, other_file: Path, label_file: Path, tmp_path
) -> None:
    """Upload, submit a label, ask for the next sample, infer, download: the requests of a recorded client."""
    uploads = [
        client.put("/monai/datastore/?image=", files={"file": (path.name, path.read_bytes())})
        for path in (scan_file, other_file)
    ]
    first, second = (answer.json()["image"] for answer in uploads)
    info = client.get("/monai/info/").json()
    assert info["models"]["latentseg"]["type"] == "segmentation"
    assert info["datastore"]["total"] == 2
    rows = [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]
    form = {"params": json.dumps({"label_info": rows})}
    files = {"label": (label_file.name, label_file.read_bytes())}
    saved = client.put(f"/monai/datastore/label?image={first}&tag=final", data=form, files=files)
    assert saved.status_code == 200, saved.text
    assert client.get("/monai/info/").json()["labels"] == ["liver", "spleen"]
    assert client.get("/monai/datastore/").json()["completed"] == 1
    again = client.get(f"/monai/datastore/label?label={first}&tag=final")
    (tmp_path / "again.nii.gz").write_bytes(again.content)
    assert np.array_equal(read(tmp_path / "again.nii.gz").array, read(label_file).array)
    assert client.post("/monai/activelearning/doubt", json={}).json()["id"] == second
    answer = client.post(f"/monai/infer/latentseg?image={second}", data={"params": '{"labels": ["liver"]}'})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("multipart/form-data; boundary=")
    alone = client.post(f"/monai/infer/latentseg?image={second}&output=image", data={"params": "{}"})
    (tmp_path / "found.nii.gz").write_bytes(alone.content)
    found = read(tmp_path / "found.nii.gz")
    assert found.shape == read(other_file).shape
    assert np.array_equal(found.affine_ras_mm, read(other_file).affine_ras_mm)
    assert client.post("/monai/train/latentseg", json={}).json()["status"] == "RUNNING"
    assert client.get(f"/monai/datastore/image?image={second}").status_code == 200


@pytest.mark.parametrize(
    ("path", "form", "status", "says"),
    [
        ("/monai/infer/other?image=x", {}, 404, "no such model"),
        ("/monai/infer/latentseg", {}, 400, "no image"),
        ("/monai/infer/latentseg?image=nothing", {}, 404, "no such image"),
        ("/monai/infer/latentseg?image=ct", {"params": "{"}, 400, "no JSON"),
        ("/monai/infer/latentseg?image=ct", {"params": "[]"}, 400, "no JSON object"),
        ("/monai/infer/latentseg?image=ct", {"params": '{"labels": 5}'}, 400, "no names"),
        ("/monai/infer/latentseg?image=ct", {"params": '{"labels": ["x"]}'}, 404, "no target"),
        ("/monai/infer/latentseg?image=ct", {"params": "{}"}, 400, "nobody has shown"),
    ],
)
def test_mistakes(client, opened, path: str, form, status: int, says: str) -> None:
    answer = client.post(path, data=form)
    assert (answer.status_code, says in answer.json()["sentence"]) == (status, True), answer.text


def test_a_label_without_a_name_or_on_another_grid(
    client, opened, label_file: Path, other_file: Path
) -> None:
    where = f"/monai/datastore/label?image={opened['id']}"
    files = {"label": (label_file.name, label_file.read_bytes())}
    answer = client.put(where, data={"params": "{}"}, files=files)
    assert (answer.status_code, "has no name" in answer.json()["sentence"]) == (400, True)
    image = read(other_file)
    wrong = write_like(image.array > 0, like=image, path=label_file.with_name("wrong.nii.gz"))
    answer = client.put(where, files={"label": (wrong.name, wrong.read_bytes())})
    assert (answer.status_code, "grid" in answer.json()["sentence"]) == (400, True)


def test_logging_in(client) -> None:
    nobody = {"Authorization": ""}
    assert client.get("/monai/auth/", headers=nobody).json() == {"enabled": True}
    wrong = client.post("/monai/auth/token", data={"username": "a", "password": "b"}, headers=nobody)
    assert wrong.status_code == 401
    right = client.post("/monai/auth/token", data={"username": "a", "password": TOKEN}, headers=nobody)
    assert right.json() == {"access_token": TOKEN, "token_type": "bearer"}
    assert client.get("/monai/auth/token/valid", headers=nobody).status_code == 401


def test_the_token_in_the_address(client) -> None:
    nobody = {"Authorization": ""}
    assert client.get(f"/t/{TOKEN}/monai/info/", headers=nobody).status_code == 200
    assert client.get(f"/t/{TOKEN}/monai/auth/", headers=nobody).json() == {"enabled": False}
    assert client.get("/t/wrong/monai/info/", headers=nobody).status_code == 401


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_client_of_monai_label(
    bench, scan_file: Path, other_file: Path, label_file: Path, tmp_path
) -> None:
    """MONAI Label's own client class against a server that listens."""
    module = pytest.importorskip("monailabel.client.client", reason="needs the client of monailabel")
    import socket
    from dataclasses import replace

    import uvicorn

    from latentseg.serve.app import create_app

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    bench.options = replace(bench.options, port=listening.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(create_app(bench), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{bench.options.port}"
        client = module.MONAILabelClient(f"{address}/monai", tmpdir=str(tmp_path))
        while not server.started:
            time.sleep(0.05)
        assert client.auth_enabled()
        client.update_auth(client.auth_token("anybody", TOKEN))
        assert client.auth_valid_token()
        # With a token in its headers this client mixes up the types of later bodies; the address works.
        client = module.MONAILabelClient(f"{address}/t/{TOKEN}/monai", tmpdir=str(tmp_path))
        assert not client.auth_enabled()
        first = client.upload_image(str(scan_file), "first")["image"]
        second = client.create_session(str(other_file))["session_id"]
        params = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
        assert client.save_label(first, str(label_file), "final", params)["image"] == first
        assert client.next_sample("doubt", {})["id"] == second
        file, said = client.infer("latentseg", second, {"labels": ["liver"]})
        assert read(file).shape == read(other_file).shape
        assert said["label_names"] == {"liver": 1}
        assert client.train_start("latentseg", {})["status"] == "RUNNING"
        assert client.datastore()["objects"].keys() == {first, second}
        assert read(client.download_label(first, "final")).array.any()
        assert client.get_session(second)["image"] == second
        client.remove_session(second)
    finally:
        server.should_exit = True
        thread.join()

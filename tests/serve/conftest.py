"""A workbench on a tiny model, and a client for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.workbench import TOKEN, make_client


@pytest.fixture
def scan_file(tmp_path: Path, searched: Any) -> Path:
    """A small CT phantom as NIfTI."""
    return save(searched.image, tmp_path / "data" / "ct.nii.gz")


@pytest.fixture
def other_file(tmp_path: Path, shown: Any) -> Path:
    """Another one."""
    return save(shown.image, tmp_path / "data" / "other.nii.gz")


def save(volume: Any, path: Path) -> Path:
    from latentseg.imaging import write_like

    path.parent.mkdir(exist_ok=True)
    return write_like(volume.array, like=volume, path=path, kind="image")


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Any:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    from latentseg.serve.settings import ServeOptions

    (tmp_path / "data").mkdir(exist_ok=True)
    about = {"data": (tmp_path / "data",), "token": TOKEN, "backbone": tiny_model, "user": "tester"}
    return ServeOptions(tmp_path / "project", **about)


@pytest.fixture
def bench(options: Any) -> Any:
    from latentseg.serve.workbench import Workbench

    return Workbench(options)


@pytest.fixture
def client(bench: Any) -> Iterator[Any]:
    """Talks to the workbench with the right token."""
    pytest.importorskip("httpx", reason="needs httpx")
    with make_client(bench) as made:
        yield made


@pytest.fixture
def opened(client: Any, scan_file: Path) -> dict[str, Any]:
    """A scan that was opened, and the target liver."""
    client.post("/api/targets", json={"name": "liver"}).raise_for_status()
    answer = client.post("/api/scans", json={"path": str(scan_file)})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture
def truth(searched: Any) -> np.ndarray:
    """The liver of the opened scan in the view frame."""
    from latentseg.serve.view import View

    return np.asarray(View.of(searched.image).apply(searched.labels.array == 1))


@pytest.fixture
def paint(client: Any, opened: dict[str, Any], truth: np.ndarray) -> Callable[..., Any]:
    """Draws the true liver, or nothing, on slices of the opened scan."""

    def draw(*slices: int, empty: bool = False, target: int = 1) -> Any:
        chosen = truth[:, :, list(slices)]
        voxels = np.zeros_like(chosen) if empty else chosen
        where = f"/api/scans/{opened['id']}/drawings/{target}?slices={','.join(map(str, slices))}"
        return client.put(where, content=voxels.astype(np.uint8).tobytes(order="F"))

    return draw


@pytest.fixture
def finish(client: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Waits for jobs and returns them as they ended."""

    def wait(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for _ in range(600):
            rows = [client.get(f"/api/jobs/{job['id']}").json() for job in jobs]
            if not any(row["state"] in ("queued", "running") for row in rows):
                return rows
            time.sleep(0.1)
        pytest.fail(f"the jobs did not end: {rows}")

    return wait

"""The whole story in a browser: open, paint, find, correct, find again, export, reload."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from helpers.chrome import Chrome, programs
from helpers.workbench import TOKEN
from latentseg.imaging import Volume, read
from latentseg.serve.page_files import built
from latentseg.serve.view import View

DATA = Path(os.environ.get("LATENTSEG_DATA", "../shared/data"))
SABS_SLICES = (70, 90)  # of the file: lower liver to its dome
OPENED = "window.latentseg && latentseg.app.open && !latentseg.app.loading"


@dataclass
class Case:
    """A scan as somebody has it on the disk, and its liver in the view frame."""

    file: Path
    truth: np.ndarray


@pytest.fixture(autouse=True)
def _browser() -> None:
    if programs() is None:
        pytest.skip("no Chromium with chromedriver here")
    if built() is None:
        pytest.skip("the page was not built: run `make page`")


def dicom_phantoms(folder: Path) -> list[Case]:
    """Two phantoms as DICOM series, each in an archive."""
    pytest.importorskip("highdicom", reason="needs the extra [dicom]")
    from helpers.dicom_files import save_slices, slice_datasets
    from latentseg.phantom.bodies import abdomen

    cases = []
    for seed in (1, 2):
        phantom = abdomen(seed=seed, shape=(96, 96, 12))
        save_slices(slice_datasets(phantom.image), folder / f"series-{seed}")
        archive = shutil.make_archive(str(folder / f"phantom-{seed}"), "zip", folder / f"series-{seed}")
        truth = View.of(phantom.image).apply(phantom.labels.array == 1)
        cases.append(Case(Path(archive), np.asarray(truth)))
    return cases


def sabs(folder: Path) -> list[Case]:
    """Parts of two real scans."""
    from latentseg.imaging import write_like

    if not (DATA / "sabs").is_dir():
        pytest.skip("no SABS here: set LATENTSEG_DATA")
    cases = []
    for number in (7, 8):
        image = read(DATA / f"sabs/image_{number}.nii.gz", modality="CT", orientation="LAS")
        label = read(DATA / f"sabs/label_{number}.nii.gz")
        part = slice(*SABS_SLICES)
        volume = Volume(image.array[:, :, part], np.diag([-1.17, 1.17, 3, 1]), "CT")
        file = write_like(volume.array, like=volume, path=folder / f"sabs-{number}.nii.gz", kind="image")
        cases.append(Case(file, np.asarray(View.of(volume).apply(label.array[:, :, part] == 6))))
    return cases


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server with the embedded model, in a thread."""
    import socket

    import uvicorn

    from latentseg.serve.app import create_app
    from latentseg.serve.settings import ServeOptions
    from latentseg.serve.workbench import Workbench

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    options = ServeOptions(tmp_path / "project", port=listening.getsockname()[1], token=TOKEN)
    config = uvicorn.Config(create_app(Workbench(options)), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield options.address
    server.should_exit = True
    thread.join()


@pytest.fixture
def chrome(tmp_path: Path) -> Iterator[Chrome]:
    made = Chrome(tmp_path, width=1120, height=640)  # every frame is drawn in software
    yield made
    made.close()


class Page:
    """What a person does on the page."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def enter(self, address: str) -> None:
        self.chrome.open(address)
        self.chrome.wait("window.latentseg && document.querySelector('#scans .panel-head')")

    def add_target(self, name: str) -> None:
        self.chrome.click("#targets .panel-head button")
        self.chrome.wait(
            "document.querySelector('#dialog[open] input[name=name]')"
        )  # not that of a closed one
        self.chrome.type("#dialog input[name=name]", name)
        self.chrome.click("#dialog button.primary")
        self.chrome.wait("latentseg.app.target")

    def upload(self, file: Path) -> None:
        self.chrome.click("#scans .panel-head button")
        self.chrome.wait("document.querySelector('#upload')")
        self.chrome.type("#upload", str(file))
        self.chrome.click("#dialog button.primary")
        name = file.name.split(".", maxsplit=1)[0]
        self.chrome.wait(f"{OPENED} && latentseg.app.open.name === '{name}'")

    def outline(self, mask: np.ndarray, z: int) -> None:
        """Go round a mask ``(X, Y)`` with the outline tool."""
        from skimage.measure import approximate_polygon, find_contours

        line = max(find_contours(np.pad(mask.astype(float), 1), 0.5), key=len) - 1
        line = approximate_polygon(line, 0.7)  # the page draws a frame for every point
        start = [int(v) for v in line[0].round()]
        self.chrome.run(f"latentseg.viewer.goToVoxel([{start[0]}, {start[1]}, {z}])")
        self.chrome.click("#tool-fill")
        points = ",".join(f"[{x:.2f},{y:.2f},{z}]" for x, y in line)
        script = f"""const r = document.getElementById('canvas').getBoundingClientRect()
            const points = [{points}].map((p) => latentseg.viewer.point(p))
            return points.map((p) => [p[0] + r.left, p[1] + r.top])"""
        drawn = self.row()["drawn"]
        self.chrome.stroke(self.chrome.run(script))
        self.chrome.wait(f"latentseg.app.row().drawn.includes({z})") if z not in drawn else time.sleep(2)

    def empty(self, z: int) -> None:
        """Wipe a slice."""
        nothing = "new Uint8Array(latentseg.viewer.shape[0] * latentseg.viewer.shape[1])"
        self.chrome.run(f"latentseg.viewer.goTo({z}); latentseg.app.drawSlice({z}, {nothing})")
        self.chrome.wait(f"latentseg.app.row().drawn.includes({z})")

    def find(self) -> None:
        at = self.row()["at"]
        self.chrome.click("#find")
        self.chrome.wait(
            f"!latentseg.app.job && latentseg.app.row().at !== {repr(at) if at else 'null'}", 600
        )
        time.sleep(1)  # the mask is fetched

    def row(self) -> dict[str, Any]:
        return dict(self.chrome.run("return latentseg.app.row()"))

    def mask(self) -> np.ndarray:
        """What the page shows of the first target."""
        script = """const at = []
            latentseg.viewer.bitmap.forEach((value, n) => value === 1 && at.push(n))
            return [latentseg.viewer.shape, at]"""
        shape, at = self.chrome.run(script)
        mask = np.zeros(int(np.prod(shape)), bool)
        mask[at] = True
        return mask.reshape(shape, order="F")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.slow
@pytest.mark.parametrize("cases", [dicom_phantoms, sabs], ids=["phantoms", "sabs"])
def test_the_story(chrome: Chrome, address: str, tmp_path: Path, cases) -> None:
    first, second = cases(tmp_path)
    page = Page(chrome)
    page.enter(address)
    assert TOKEN not in chrome.run("return location.href")
    page.add_target("liver")
    page.upload(second.file)
    page.upload(first.file)
    z = int(first.truth.sum((0, 1)).argmax())
    page.outline(first.truth[:, :, z], z)
    assert dice(page.mask()[:, :, z], first.truth[:, :, z]) > 0.9  # what was painted is where it was painted
    page.find()
    once = page.mask()
    errors = (once != first.truth).sum((0, 1))
    errors[z] = 0
    worst = int(errors.argmax())
    page.empty(worst)
    if first.truth[:, :, worst].any():
        page.outline(first.truth[:, :, worst], worst)
    page.find()
    again = page.mask()
    assert (again != first.truth).sum((0, 1))[worst] < errors[worst]  # what was drawn is what is there
    assert (
        dice(again, first.truth) > dice(once, first.truth) - 0.02
    )  # and the other slices are as good as before
    chrome.click("#accepted")
    chrome.wait("latentseg.app.row().verdict === 'accepted'")
    chrome.wait("[...latentseg.app.jobs.values()].every((job) => job.state === 'done')", 600)
    assert chrome.run(
        "return latentseg.app.scans.every((scan) => latentseg.app.row(1, scan).found)"
    )  # it learned
    if chrome.run("return latentseg.app.open.dicom"):
        import highdicom

        chrome.click("#export-seg")
        taken = wait_for(chrome.downloads, "*_seg.dcm")
        segments = highdicom.seg.segread(taken)
        assert segments.SegmentSequence[0].SegmentLabel == "liver"
        assert segments.get_volume().array.sum() == again.sum()
    chrome.click("#export-nifti")
    wait_for(chrome.downloads, "*.zip")
    chrome.open(chrome.run("return location.href"))
    chrome.wait(OPENED)
    chrome.wait("latentseg.viewer.bitmap.some((value) => value === 1)")
    assert np.array_equal(page.mask(), again)
    assert page.row()["verdict"] == "accepted"
    assert chrome.errors() == []


def wait_for(folder: Path, pattern: str) -> Path:
    for _ in range(100):
        found = next(folder.glob(pattern), None)
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"no {pattern} was saved")


def test_by_keyboard_alone(chrome: Chrome, address: str, tmp_path: Path) -> None:
    (case, _) = dicom_phantoms(tmp_path)
    page = Page(chrome)
    page.enter(address)
    page.add_target("liver")
    page.upload(case.file)
    chrome.run("document.getElementById('canvas').focus()")
    z = chrome.run("return latentseg.viewer.slice")
    chrome.key("PageUp")
    assert chrome.run("return latentseg.viewer.slice") == z + 1
    chrome.key("p")
    chrome.wait(f"latentseg.app.row().drawn.includes({z + 1})")
    assert page.mask()[:, :, z + 1].sum() > 20
    chrome.key("P")
    chrome.wait("!latentseg.viewer.bitmap.some((value) => value === 1)")
    chrome.key("z")
    chrome.wait("latentseg.viewer.bitmap.some((value) => value === 1)")
    chrome.key("?")
    chrome.wait("document.getElementById('dialog').open")


@pytest.mark.parametrize("size", [(1280, 800), (820, 1180)], ids=["desk", "tablet"])
def test_nothing_is_cut_off(address: str, tmp_path: Path, size: tuple[int, int]) -> None:
    chrome = Chrome(tmp_path, width=size[0], height=size[1])
    try:
        Page(chrome).enter(address)
        script = "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert chrome.run(script) <= [*size]
        cut = """const all = [...document.querySelectorAll('button, select')]
            const places = all.map((e) => [e.id, e.getBoundingClientRect()])
            const out = ([, r]) => r.width && (r.right > innerWidth || r.left < 0)
            return places.filter(out).map(([id]) => id)"""
        assert chrome.run(cut) == []
        colors = []
        for _ in range(2):
            colors.append(chrome.run("return getComputedStyle(document.body).backgroundColor"))
            chrome.click("#theme")
        assert len(set(colors)) == 2
    finally:
        chrome.close()


def test_buttons_stay_while_the_page_goes_on(chrome: Chrome, address: str) -> None:
    """A button that was pressed down must be there when the mouse comes up, and keeps the focus."""
    page = Page(chrome)
    page.enter(address)
    page.add_target("liver")
    find = "document.querySelector('#targets .panel-head button')"
    chrome.run(f"window.before = {find}; before.focus(); latentseg.app.changed()")
    time.sleep(1)
    assert chrome.run("return before.isConnected && document.activeElement === before")
    page.add_target("spleen")
    chrome.wait("latentseg.app.project.targets.length === 2")
    time.sleep(1)
    names = "return [...document.querySelectorAll('.target .name')].map((e) => e.textContent)"
    assert chrome.run(names) == ["liver", "spleen"]
    chrome.click(".target-row:last-child .target")
    chrome.wait("latentseg.app.target.name === 'spleen'")


def test_without_the_token(chrome: Chrome, address: str) -> None:
    chrome.open(address.split("#", maxsplit=1)[0])
    chrome.wait("document.querySelector('#dialog input[name=token]')")
    chrome.type("#dialog input[name=token]", TOKEN)
    chrome.click("#dialog button.primary")
    chrome.wait("document.querySelector('#empty h1')")

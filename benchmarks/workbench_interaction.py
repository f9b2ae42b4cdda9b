"""How quick the page is with a large scan, in Chromium.

Usage: ``python benchmarks/workbench_interaction.py [--shape 512,512,500]``; needs Chromium with chromedriver,
and the built page (`make page`).

A scan of that shape is opened on the page. Then, thirty times each: one step of a brush stroke (a mouse
movement that draws, to the end of the frame), the end of a stroke (what changed is found out), and a step to
the next slice. Each is timed in the page and ends with a read from the graphics card, so that its work
counts. Where there is no graphics card Chromium draws in software, which is many times slower than any card.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.chrome import Chrome
from latentseg.cli.serve import listen
from latentseg.imaging import Volume, write_like
from latentseg.serve.app import create_app
from latentseg.serve.settings import ServeOptions
from latentseg.serve.workbench import Workbench

MEASURE = """
const { viewer, app } = latentseg, nv = viewer.nv, gl = nv.gl, pixel = new Uint8Array(4), times = {}
const timed = (name, work) => {
  const list = (times[name] ??= [])
  for (let n = 0; n < 30; n++) {
    const began = performance.now()
    work(n)
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel)
    list.push(performance.now() - began)
  }
}
const z = viewer.slice, middle = viewer.shape[0] >> 1
viewer.use('draw')
nv.drawPenAxCorSag = 0
timed('brush', (n) => {
  nv.drawPenLocation = [middle + n, middle, z]
  nv.drawPt(middle + n, middle, z, 1)
  nv.refreshDrawing(false, false)
  nv.drawScene()
})
app.keep = () => undefined
timed('end of a stroke', () => app.stroke({ axis: 2, index: z }))
nv.drawPenAxCorSag = -1
nv.drawPenLocation = [NaN, NaN, NaN]
timed('next slice', () => viewer.move(0, 0, 1))
return times
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="512,512,500")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/workbench_interaction.json"))
    options = parser.parse_args()
    shape = tuple(int(count) for count in options.shape.split(","))
    with tempfile.TemporaryDirectory() as name:
        figures = measure(shape, Path(name))
    for what, values in figures.items():
        sys.stdout.write(f"| {what} | {values['median ms']} | {values['slowest ms']} |\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "shape": shape, **figures}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def measure(shape: tuple[int, ...], folder: Path) -> dict[str, dict[str, float]]:
    """Open a scan of a shape on the page, and time what a person does."""
    import uvicorn

    rng = np.random.default_rng(0)
    voxels = np.tile(rng.integers(-200, 300, (shape[0], shape[1], 4), np.int16), (1, 1, -(-shape[2] // 4)))
    volume = Volume(voxels[:, :, : shape[2]], np.diag([0.7, 0.7, 1.0, 1.0]), "CT")
    file = write_like(volume.array, like=volume, path=folder / "large.nii", kind="image")
    listening = listen("127.0.0.1", 0)
    bench = Workbench(ServeOptions(folder / "project", data=(folder,), port=listening.getsockname()[1]))
    bench.project.add_target("liver", who="benchmark")
    bench.project.add_scan(file, who="benchmark")
    server = uvicorn.Server(uvicorn.Config(create_app(bench), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    chrome = Chrome(folder)
    try:
        chrome.open(bench.options.address)
        began = time.perf_counter()
        chrome.wait(
            "window.latentseg && latentseg.app.open && !latentseg.app.loading && latentseg.viewer.bitmap"
        )
        opened = time.perf_counter() - began
        times = chrome.run(MEASURE)
    finally:
        chrome.close()
        server.should_exit = True
        thread.join()
    rows = {
        what: {"median ms": round(float(np.median(values)), 1), "slowest ms": round(max(values), 1)}
        for what, values in times.items()
    }
    return {**rows, "opening": {"median ms": round(opened * 1000), "slowest ms": round(opened * 1000)}}


if __name__ == "__main__":
    main()

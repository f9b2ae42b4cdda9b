"""How long a person waits on the page: the seconds from pressing find to a mask.

Usage: ``python benchmarks/workbench_speed.py [--shape 512,512,100]``.

A server is started as `latentseg serve` starts it, a phantom CT is uploaded, the liver and the spleen are
painted on one slice each. Then, one after the other, through the interface that the page uses: the liver is
found for the first time, the spleen, and the liver again after one more slice was corrected. A second phantom
follows, which nobody painted on. Each scan is fetched as the page fetches it when it opens it, and then the
server is left alone for some seconds (``--painting``), as it is by somebody who paints; with ``--painting 0``
find is pressed at once. Every figure runs from the request to the end of its job; beside it is the Dice of
the mask with the phantom's own labels.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import write_like
from latentseg.metrics.overlap import dice
from latentseg.phantom.bodies import Phantom, abdomen
from latentseg.serve.client import Client
from latentseg.serve.view import View

TOKEN = "of-the-benchmark-alone"  # noqa: S105 - it guards a server that lives for a minute
POLL_S = 0.05
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="512,512,100")
    parser.add_argument("--painting", type=float, default=20.0, help="seconds between an upload and find")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/workbench_speed.json"))
    options = parser.parse_args()
    shape = tuple(int(count) for count in options.shape.split(","))
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(shape, Path(folder), painting=options.painting)
    for what, value in figures["seconds"].items():
        sys.stdout.write(f"| {what} | {value} | {figures['dice'].get(what, '')} |\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "shape": shape, "cores": os.cpu_count()}
    row = {**about, "painting_s": options.painting, **figures}
    options.output.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def measure(shape: tuple[int, ...], folder: Path, *, painting: float) -> Figures:
    """Seconds of each step, and the Dice of what was found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "latentseg", "serve", str(folder / "project"), "--no-browser"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--port", port, "--token", TOKEN])  # noqa: S603 - of this project
    figures: Figures = {"seconds": {}, "dice": {}}
    try:
        with Client(f"http://127.0.0.1:{port}", TOKEN) as bench:
            wait_for(bench)
            figures["seconds"]["the server answers"] = round(time.perf_counter() - began, 1)
            phantoms = [abdomen(seed=seed, modality="CT", shape=shape) for seed in (1, 2)]
            work_through(bench, phantoms, folder, painting, figures)
    finally:
        process.terminate()
        process.wait()
    return figures


def work_through(
    bench: Client, phantoms: list[Phantom], folder: Path, painting: float, figures: Figures
) -> None:
    """What a person does."""
    numbers = {name: bench.add_target(name).id for name in ("liver", "spleen")}
    scans, seconds = [], figures["seconds"]
    for seed, phantom in enumerate(phantoms):
        file = folder / f"{seed}.nii.gz"
        write_like(phantom.image.array, like=phantom.image, path=file, kind="image")
        began = time.perf_counter()
        scans.append(bench.upload(file).id)
        seconds[f"upload {seed + 1}"] = round(time.perf_counter() - began, 1)
        bench.http.get(f"/api/scans/{scans[-1]}/image").raise_for_status()  # as the page does
        time.sleep(painting)
    first, second = scans
    truth, other = (masks(phantom, list(numbers)) for phantom in phantoms)
    middle = {name: int(np.flatnonzero(mask.any((0, 1))).mean()) for name, mask in truth.items()}

    def find(what: str, where: str, name: str) -> None:
        began = time.perf_counter()
        (job,) = bench.find([where], [numbers[name]])
        while (row := bench.job(job.id)).state in ("queued", "running"):
            time.sleep(POLL_S)
        if row.state != "done":
            sys.exit(f"{what}: {row.error}")
        seconds[what] = round(time.perf_counter() - began, 1)
        right = truth if where == first else other
        figures["dice"][what] = round(float(dice(bench.mask(where, numbers[name]), right[name])), 3)

    for name, number in numbers.items():
        bench.draw(first, number, {middle[name]: truth[name][:, :, middle[name]]})
    find("first result: the liver", first, "liver")
    find("second target: the spleen", first, "spleen")
    corrected = middle["liver"] + 5
    bench.draw(first, numbers["liver"], {corrected: truth["liver"][:, :, corrected]})
    find("the liver again, after a correction", first, "liver")
    find("the liver in the second scan", second, "liver")


def masks(phantom: Phantom, names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """What was planted, in the frame of the page."""
    labels = {name: label for label, name in phantom.names.items()}
    view = View.of(phantom.image)
    return {name: np.asarray(view.apply(phantom.labels.array == labels[name])) for name in names}


def wait_for(bench: Client) -> None:
    """Wait until the server answers."""
    for _ in range(600):
        try:
            bench.project()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server did not start")


if __name__ == "__main__":
    main()

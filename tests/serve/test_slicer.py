"""The part of the module for 3D Slicer that needs no Slicer."""

from __future__ import annotations

import importlib.util
import threading
import time
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from latentseg.imaging import Volume
from latentseg.serve.view import View

FILE = Path(__file__).parents[2] / "integrations/slicer/LatentSeg/latentseg_rest.py"
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def module():
    spec = importlib.util.spec_from_file_location("latentseg_rest", FILE)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@given(st.sampled_from(ORIENTATIONS), st.integers(0, 2**16))
def test_its_frame_is_the_server_s(orientation, seed) -> None:
    rest = module()
    (axes, signs), rng = orientation, np.random.default_rng(seed)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * rng.uniform(0.5, 4)
    volume = Volume(rng.integers(0, 9, (3, 4, 5)).astype(np.int16), affine)
    slicers = volume.array.transpose(2, 1, 0)  # Slicer's arrays are K, J, I
    assert np.array_equal(rest.to_view(slicers, affine), View.of(volume).apply(volume.array))
    assert np.array_equal(rest.from_view(rest.to_view(slicers, affine), affine), slicers)


def test_its_requests(bench, scan_file: Path, truth) -> None:
    import socket
    from dataclasses import replace

    import uvicorn

    from latentseg.serve.app import create_app

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    bench.options = replace(bench.options, port=listening.getsockname()[1])
    serving = uvicorn.Server(uvicorn.Config(create_app(bench), log_level="error"))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    rest = module()
    try:
        while not serving.started:
            time.sleep(0.05)
        server = rest.Server(bench.options.address)
        scan = server.upload("ct.nii.gz", scan_file.read_bytes())
        target = server.target("liver")
        assert server.target("Liver") == target
        server.draw(scan["id"], target, {2: truth[:, :, 2]})
        (job,) = server.find([scan["id"]], target)
        while server.job(job["id"])["state"] in ("queued", "running"):
            time.sleep(0.1)
        mask = server.mask(scan["id"], target, tuple(scan["shape"]))
        assert np.array_equal(mask[:, :, 2], truth[:, :, 2])
        assert server.judge(scan["id"], target, "accepted")["scan"]["doubt"] is None
        with pytest.raises(rest.Refused, match="no such scan"):
            server.find(["0123456789ab"], target)
        with pytest.raises(rest.Refused, match="token"):
            rest.Server(bench.options.address + "x").target("liver")
    finally:
        serving.should_exit = True
        thread.join()
    with pytest.raises(rest.Refused, match="does not answer"):
        rest.Server("http://127.0.0.1:9/#token=x").target("liver")
    with pytest.raises(rest.Refused, match="not the address"):
        rest.Server("file:///etc/passwd")

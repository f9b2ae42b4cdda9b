"""A client for a workbench, and what its answers hold."""

from __future__ import annotations

from typing import Any

import numpy as np

TOKEN = "a-token-for-the-tests"  # noqa: S105 - it guards nothing
ADDRESS = "http://127.0.0.1:8471"


def make_client(bench: Any) -> Any:
    from starlette.testclient import TestClient

    from latentseg.serve.app import create_app

    headers = {"Authorization": f"Bearer {TOKEN}"}
    return TestClient(create_app(bench), base_url=ADDRESS, headers=headers, raise_server_exceptions=False)


def mask_of(answer: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """The array of an answer of /masks."""
    edges = np.frombuffer(answer.content[:24], "<u4").reshape(3, 2)
    mask = np.zeros(shape, bool)
    box = tuple(slice(int(low), int(high)) for low, high in edges)
    inside = np.frombuffer(answer.content[24:], np.uint8)
    mask[box] = inside.reshape([int(high - low) for low, high in edges], order="F")
    return mask

"""The server against its own description, a thousand hostile requests, and a kill in the middle."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from helpers.workbench import ADDRESS, TOKEN
from latentseg.serve.app import create_app

HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": ADDRESS.removeprefix("http://")}
REQUESTS = 1000
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "response_schema_conformance",
    "content_type_conformance",
)
PIECES = (
    *(
        "..",
        "../..",
        "%2e%2e%2f",
        "..%5c",
        "/etc/passwd",
        "/proc/self/environ",
        "\0",
        "%00",
        "a" * 3000,
        "-1",
        "1e9",
    ),
    *(
        "9" * 40,
        "{}",
        "[]",
        "null",
        "<script>alert(1)</script>",
        "'; DROP TABLE scans; --",
        "${jndi:ldap://x}",
        "é",
        "\u202e",
    ),
    *(
        "0123456789ab",
        "1",
        "liver",
        "true",
        "drawings",
        "masks",
        "file:///etc/passwd",
        "//evil.example/",
        "\r\nX: y",
    ),
)
PATHS = (
    *(
        "/api/project",
        "/api/targets",
        "/api/targets/1",
        "/api/scans",
        "/api/scans/upload",
        "/api/scans/0123456789ab",
    ),
    *(
        "/api/scans/{0}",
        "/api/scans/{0}/masks/{1}",
        "/api/scans/{0}/drawings/{1}",
        "/api/scans/{0}/export/{1}",
    ),
    *(
        "/api/scans/{0}/undo",
        "/api/jobs",
        "/api/jobs/{0}",
        "/api/files",
        "/api/journal",
        "/assets/{0}",
        "/{0}",
        "/{0}/{1}",
    ),
    *("/api/scans/{0}/verdicts/{1}", "/api/scans/{0}/probability/{1}", "/api/scans/{0}/evidence/1/{1}"),
    *(
        "/monai/info/",
        "/monai/infer/{0}",
        "/monai/datastore/",
        "/monai/datastore/image",
        "/monai/session/{0}",
    ),
)


def test_it_is_as_its_description_says(bench) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(bench), headers=HEADERS)
    operations = [found.ok() for found in schema.exclude(path="/api/events").get_all_operations()]
    assert len(operations) > 20
    how = {"max_examples": 15, "deadline": None, "derandomize": True, "phases": [Phase.generate]}
    for operation in operations:

        @settings(**how, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def agrees(case) -> None:
            response = case.call(headers=HEADERS)
            case.validate_response(response, checks=[getattr(schemathesis.checks, name) for name in CHECKS])

        agrees()


def hostile(rng: random.Random) -> tuple[str, str, dict[str, object]]:
    """One request that nobody means well."""
    piece = lambda: rng.choice(PIECES)  # noqa: E731 - two letters of a template
    path = rng.choice(PATHS).format(piece(), piece()).replace("\0", "%00").replace("\r\n", "%0d%0a")
    method = rng.choice(["GET", "POST", "PUT", "PATCH", "DELETE"])
    query = {rng.choice(["slices", "name", "folder", "last", "image", "before"]): piece() for _ in range(2)}
    value = rng.choice([piece(), [piece()], {piece(): piece()}, None, -1, 1e308, [[]] * 50])
    keys = ("name", "path", "prompt", "scans", "targets", "verdict", "color")
    body = rng.choice(
        [
            json.dumps({rng.choice(keys): value, rng.choice(keys): value}).encode(),
            os.urandom(0) + bytes(rng.randrange(256) for _ in range(rng.randrange(400))),
            b"{" * rng.randrange(2000),
            b"",
        ]
    )
    kind = rng.choice(
        ["application/json", "application/octet-stream", "multipart/form-data; boundary=x", "x"]
    )
    headers = {"Content-Type": kind, **({"Content-Encoding": "gzip"} if rng.random() < 0.2 else {})}
    return method, path, {"params": query, "content": body, "headers": headers}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_hostile_requests(client, tmp_path: Path, opened) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured on Linux alone")
    rng = random.Random(0)  # noqa: S311 - for a test
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "project" not in path.parts}
    seen: dict[int, int] = {}
    for number in range(REQUESTS):
        if number == REQUESTS // 2:
            middle = resident_bytes()
        method, path, rest = hostile(rng)
        answer = client.request(method, path, **rest)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (method, path, rest, answer.text)
    assert resident_bytes() < 1.05 * middle
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "project" not in path.parts}
    assert after == before  # no file outside of the project
    refused = sum(count for status, count in seen.items() if 400 <= status < 500)
    assert refused > REQUESTS // 2
    assert client.get("/api/health").status_code == 200


START = """
import sys
from pathlib import Path
from latentseg.serve.settings import ServeOptions
from latentseg.cli.serve import listen, run
project, model, port = sys.argv[1:]
options = ServeOptions(Path(project), token="{token}", backbone=model, port=int(port))
run(options, listen("127.0.0.1", int(port)), demo=False, browser=False)
"""


class Server:
    """A server in a process of its own, that can be killed."""

    def __init__(self, project: Path, model: Path) -> None:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", START.format(token=TOKEN), str(project), str(model), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def client(self):
        import httpx

        client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
        )
        for _ in range(600):
            try:
                client.get("/api/health")
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return client
        pytest.fail("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
def test_killed_in_a_job_and_in_an_upload(tmp_path: Path, tiny_model: Path, scan_file: Path) -> None:
    import httpx

    project = tmp_path / "project"
    server = Server(project, tiny_model)
    try:
        client = server.client()
        scan = client.post("/api/scans/upload?name=ct.nii.gz", content=scan_file.read_bytes()).json()
        client.post("/api/targets", json={"name": "liver"})
        x, y, _ = scan["shape"]
        square = np.zeros((x, y), np.uint8)
        square[20:40, 20:40] = 1
        where = f"/api/scans/{scan['id']}/drawings/1?slices=3"
        assert client.put(where, content=square.tobytes(order="F")).status_code == 200
        (job,) = client.post("/api/jobs", json={"scans": [scan["id"]], "targets": [1]}).json()

        def pieces():
            yield scan_file.read_bytes()[:2000]
            server.kill()
            yield b"x" * 100_000

        with pytest.raises(httpx.TransportError):
            client.post("/api/scans/upload?name=torn.nii.gz", content=pieces())
        client.close()
        server = Server(project, tiny_model)
        client = server.client()
        rows = client.get("/api/scans").json()
        assert [row["name"] for row in rows] == ["ct"]
        assert rows[0]["targets"][0]["drawn"] == [3]
        assert list((project / "incoming").iterdir()) == []
        for _ in range(600):
            state = client.get(f"/api/jobs/{job['id']}").json()["state"]
            if state == "done":
                break
            time.sleep(0.1)
        assert state == "done"
        assert client.get("/api/scans").json()[0]["targets"][0]["found"]
        client.close()
    finally:
        server.kill()

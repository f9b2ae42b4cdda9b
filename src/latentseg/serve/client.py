"""A typed client for scripts and notebooks.

Example::

    with Client("http://127.0.0.1:8471", token) as bench:
        liver = bench.add_target("liver")
        scan = bench.upload("ct.nii.gz")
        bench.draw(scan.id, liver.id, {40: mask_of_slice_40})  # (X, Y) bool, in the view frame
        for job in bench.wait(bench.find([scan.id], [liver.id])):
            print(job.state, job.error)
        mask = bench.mask(scan.id, liver.id)  # (X, Y, Z) bool
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, LatentsegError, ModelError, UsageError
from latentseg.serve.schemas import Comparison, Event, JobRow, Judged, ProjectRow, ScanRow, TargetRow

KINDS: tuple[type[LatentsegError], ...] = (UsageError, InputError, ModelError)
BOX_BYTES = 24
Export = Literal["nifti", "dicom-seg", "report"]


class Client:
    """Talks to a server that ``latentseg serve`` started.

    Args:
        address: Where it is, such as ``http://127.0.0.1:8471``; a token may follow after ``#token=``.
        token: What it printed.
        user: Who draws and accepts, for its journal.
        timeout: Seconds to wait for one answer.
    """

    def __init__(self, address: str, token: str = "", *, user: str = "", timeout: float = 120.0) -> None:
        import httpx

        base, _, given = address.partition("#token=")
        headers = {"Authorization": f"Bearer {token or given}"} | ({"X-User": quote(user)} if user else {})
        self.http = httpx.Client(base_url=base.rstrip("/"), headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def project(self) -> ProjectRow:
        """The project and its targets."""
        return ProjectRow.model_validate(self._ask("GET", "/api/project"))

    def add_target(self, name: str, *, prompt: str = "") -> TargetRow:
        """Add a target, to be shown or found by words."""
        return TargetRow.model_validate(
            self._ask("POST", "/api/targets", json={"name": name, "prompt": prompt})
        )

    def scans(self) -> list[ScanRow]:
        """All scans, the most doubtful first."""
        return [ScanRow.model_validate(row) for row in self._ask("GET", "/api/scans")]

    def scan(self, scan: str) -> ScanRow:
        """One scan."""
        return ScanRow.model_validate(self._ask("GET", f"/api/scans/{scan}"))

    def open(self, path: str | Path) -> ScanRow:
        """Open a scan of the server's machine by its path."""
        return ScanRow.model_validate(self._ask("POST", "/api/scans", json={"path": str(path)}))

    def upload(self, path: str | Path) -> ScanRow:
        """Upload a file; a DICOM series as a zip archive.

        Raises:
            OSError: The file cannot be read.
        """
        with Path(path).open("rb") as file:
            where = {"name": Path(path).name}
            return ScanRow.model_validate(self._ask("POST", "/api/scans/upload", params=where, content=file))

    def draw(self, scan: str, target: int, slices: Mapping[int, NDArray[np.bool_]]) -> ScanRow:
        """Draw slices: masks ``(X, Y)`` by z, in the view frame."""
        numbers = sorted(slices)
        voxels = b"".join(slices[z].astype(np.uint8).tobytes(order="F") for z in numbers)
        where = {"slices": ",".join(map(str, numbers))}
        row = self._ask("PUT", f"/api/scans/{scan}/drawings/{target}", params=where, content=voxels)
        return ScanRow.model_validate(row)

    def find(self, scans: Sequence[str], targets: Sequence[int]) -> list[JobRow]:
        """Find targets in scans: one job for each scan."""
        body = {"scans": list(scans), "targets": list(targets)}
        return [JobRow.model_validate(row) for row in self._ask("POST", "/api/jobs", json=body)]

    def job(self, job: str) -> JobRow:
        """One job."""
        return JobRow.model_validate(self._ask("GET", f"/api/jobs/{job}"))

    def stop(self, job: str) -> JobRow:
        """Stop a job."""
        return JobRow.model_validate(self._ask("DELETE", f"/api/jobs/{job}"))

    def wait(self, jobs: Sequence[JobRow], *, seconds: float = 3600.0) -> list[JobRow]:
        """Wait until jobs end.

        Raises:
            TimeoutError: They did not in that time.
        """
        ends = time.monotonic() + seconds
        while True:
            rows = [self.job(job.id) for job in jobs]
            if not any(row.state in ("queued", "running") for row in rows):
                return rows
            if time.monotonic() > ends:
                msg = f"the jobs did not end in {seconds:g} s"
                raise TimeoutError(msg)
            time.sleep(0.2)

    def mask(self, scan: str, target: int, *, before: bool = False) -> NDArray[np.bool_]:
        """What stands, ``(X, Y, Z)`` in the view frame; with ``before`` the result before the last one."""
        where = {"before": before}
        content = self._bytes(f"/api/scans/{scan}/masks/{target}", params=where)
        box = np.frombuffer(content[:BOX_BYTES], "<u4").reshape(3, 2).astype(int)
        mask = np.zeros(self.scan(scan).shape, bool)
        inside = np.frombuffer(content[BOX_BYTES:], np.uint8)
        at = tuple(slice(low, high) for low, high in box)
        mask[at] = inside.reshape([high - low for low, high in box], order="F")
        return mask

    def judge(
        self, scan: str, target: int, verdict: Literal["accepted", "rejected", "none"], *, learn: bool = True
    ) -> Judged:
        """Accept or reject what stands; what is accepted becomes an example."""
        body = {"verdict": verdict, "learn": learn}
        return Judged.model_validate(self._ask("PUT", f"/api/scans/{scan}/verdicts/{target}", json=body))

    def compare(self, scan: str, target: int) -> Comparison:
        """The result before the last one beside what stands."""
        return Comparison.model_validate(self._ask("GET", f"/api/scans/{scan}/comparison/{target}"))

    def export(self, scan: str, kind: Export) -> bytes:
        """A file to take away: a zip archive of NIfTI, a DICOM SEG, or an HTML page."""
        return self._bytes(f"/api/scans/{scan}/export/{kind}")

    def journal(self, last: int = 200) -> list[Event]:
        """Who did what and when."""
        return [Event.model_validate(row) for row in self._ask("GET", "/api/journal", params={"last": last})]

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        return checked(self._send(method, path, **what)).json()

    def _bytes(self, path: str, **what: Any) -> bytes:
        return bytes(checked(self._send("GET", path, **what)).content)

    def _send(self, method: str, path: str, **what: Any) -> Any:
        """One request; reading is tried again where the server closed an idle connection meanwhile."""
        import httpx

        try:
            return self.http.request(method, path, **what)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            if method != "GET":
                raise
            return self.http.request(method, path, **what)


def checked(answer: Any) -> Any:
    """An answer that is no refusal.

    Raises:
        LatentsegError: The server refused, with its own words.
    """
    if answer.is_success:
        return answer
    try:
        row = answer.json()
        kind = next((kind for kind in KINDS if kind.code == row["code"]), LatentsegError)
        error = kind(row["what"], where=row["where"], fix=row["fix"])
    except (ValueError, KeyError, TypeError):
        error = LatentsegError(f"the server answered {answer.status_code}", fix="is it latentseg serve?")
    raise error

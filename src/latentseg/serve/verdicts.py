"""What a person said of a result: accepted or rejected, who and when."""

from __future__ import annotations

from typing import Any, Literal

from latentseg.serve.journal import Journal, now
from latentseg.serve.json_files import read_about, write_json
from latentseg.serve.scan import Scan

Verdict = Literal["accepted", "rejected", "none"]


def read_verdicts(scan: Scan) -> dict[str, dict[str, Any]]:
    """Verdicts by the number of the target, as text."""
    return read_about(scan.folder / "verdicts.json") or {}


def verdict_of(scan: Scan, target: int) -> Verdict:
    """What was said of one target."""
    said: Verdict = read_verdicts(scan).get(str(target), {}).get("verdict", "none")
    return said


def judge(scan: Scan, target: int, verdict: Verdict, *, journal: Journal, who: str) -> int:
    """Accept or reject a result, or take that back.

    Returns:
        The number of the event.
    """
    with scan.lock:
        verdicts = read_verdicts(scan)
        before = verdicts.pop(str(target), {}).get("verdict", "none")
        if verdict != "none":
            verdicts[str(target)] = {"verdict": verdict, "who": who, "at": now()}
        write_json(scan.folder / "verdicts.json", verdicts)
        about = {"scan": scan.id, "target": target, "before": before}
        return journal.append(verdict if verdict != "none" else "took a verdict back", who=who, **about)

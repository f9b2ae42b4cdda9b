"""The verbs of the command line: to add one, write its module and give it one line here."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """Where a verb lives, and the line that `latentseg --help` shows for it."""

    module: str
    summary: str


VERBS = {
    "inspect": Verb("latentseg.cli.inspect", "Show the grid, the modality and the intensities of an image."),
    "models": Verb("latentseg.cli.models", "List, pull and check the weights."),
    "segment": Verb("latentseg.cli.segment", "Segment a scan from examples of what to find."),
    "batch": Verb("latentseg.cli.batch", "Segment many scans; one that fails stops no other."),
    "report": Verb("latentseg.cli.report", "Write one HTML page about a batch: what to look at first."),
    "support": Verb("latentseg.cli.support", "Check or encode a folder of examples."),
    "prompts": Verb("latentseg.cli.prompts", "List what prompts may name, and explain how one is read."),
    "demo": Verb("latentseg.cli.demo", "Segment phantoms and, where they are, real scans; write a page."),
    "evaluate": Verb(
        "latentseg.cli.evaluate", "Compare label maps with the truth, or run a protocol on its data."
    ),
    "compare": Verb("latentseg.cli.compare", "Compare two evaluations case by case."),
    "train": Verb("latentseg.cli.train", "Train the compact model, from packed scans to each network."),
    "reproduce": Verb("latentseg.cli.reproduce", "Reproduce a paper: from the download to its table."),
    "serve": Verb("latentseg.cli.serve", "Open the workbench: paint one slice, find it everywhere, correct."),
    "doctor": Verb(
        "latentseg.cli.doctor", "Check this machine: Python, torch, device, memory, disk, weights."
    ),
}

"""Few-shot accuracy: EP1 on SABS and CHAOS, in one modality and across, beside two baselines in the same run.

Usage: ``python benchmarks/accuracy_fewshot.py [--output FOLDER] [--backbone compact] [--quick]``; the data
are found through ``LATENTSEG_DATA`` (default ``../shared/data``). Prints the table of
``docs/models/compact.md`` and writes ``table.md``, ``cases.csv`` and ``results.json``.

The settings were fixed before anything was tuned: SABS fold 0, CHAOS folds 0 and 1 with an MR support, and
CHAOS folds 0 and 1 with a CT support; support scan at position 2 of its fold.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import latentseg
from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching
from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP1, run_ep1
from latentseg.evaluation.tables import markdown, summarize, write_tables

SETTINGS = (
    EP1(SABS, fold=0),
    EP1(CHAOS, fold=0),
    EP1(CHAOS, fold=1),
    EP1(CHAOS, fold=0, support_dataset=SABS),
    EP1(CHAOS, fold=1, support_dataset=SABS),
)


def main() -> None:
    """Run every setting, print the table, write all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fewshot"))
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--quick", action="store_true", help="the first query scan of each setting only")
    options = parser.parse_args()
    segmenter = latentseg.load(backbone=options.backbone)
    methods = [FewShotMethod(segmenter), PrototypeMatching(segmenter.parts.backbone), MaskCopy()]
    rows = []
    for setting in SETTINGS:
        first = setting.cases()[1][0]
        for outcome in run_ep1(setting, methods=methods):
            if options.quick and outcome.row.case != first:
                break
            rows.append(outcome.row)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": latentseg.__version__,
        "weights": segmenter.parts.fingerprint,
        "protocol": "EP1, per-patient mean Dice on the original grid, support scan 2 of its fold",
    }
    write_tables(rows, folder=options.output, about=about)
    sys.stdout.write(markdown(summarize(rows)))


if __name__ == "__main__":
    main()

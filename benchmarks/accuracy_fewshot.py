"""Few-shot accuracy: EP1 on SABS and CHAOS, in one modality and across, beside baselines in the same run.

Usage: ``python benchmarks/accuracy_fewshot.py [--output FOLDER] [--backbone compact] [--methods NAMES]
[--supports 2,-1] [--folds 1,2] [--universeg FOLDER] [--quick]``, with the folder of a training by
``benchmarks/universeg.py`` for one more baseline; the data are found through ``LATENTSEG_DATA`` (default
``../shared/data``). Prints the tables of ``docs/models/compact.md``, writes ``table.md``, ``cases.csv`` and
``results.json``; a run that was stopped goes on.

The protocols were fixed before anything was tuned: SABS fold 0, CHAOS folds 1 and 2 with an MR support, and
the same with a CT support; support scan at positions 2 and -1 of its fold. Choices were made on CHAOS fold 0
and SABS folds 1 and 2; SABS fold 0 and CHAOS folds 1 and 2 were not looked at for that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from latentseg.cli.few_shot import (
    METHODS,
    load,
    make_methods,
    run_facts,
    say,
    scans_seen,
    show_rows,
)
from latentseg.cli.shared import read_choices
from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.protocols import EP1
from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
from universeg import UniverSegMethod


def protocols(support: int, folds: list[int]) -> list[EP1]:
    """SABS fold 0, CHAOS in one modality, and CHAOS with a CT support."""
    across = [EP1(CHAOS, fold=fold, support_index=support, support_dataset=SABS) for fold in folds]
    within = [EP1(CHAOS, fold=fold, support_index=support) for fold in folds]
    return [EP1(SABS, fold=0, support_index=support), *within, *across]


def main() -> None:
    """Run every protocol, print the tables, write all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fewshot"))
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--supports", default="2,-1", help="positions of the support scan in its fold")
    parser.add_argument(
        "--folds", default="1,2", help="of CHAOS; 0 is one of those that choices were made on"
    )
    parser.add_argument("--universeg", type=Path, help="folder of a training by benchmarks/universeg.py")
    parser.add_argument("--quick", action="store_true", help="the first query scan of each protocol only")
    parser.add_argument("--restart", action="store_true", help="forget what the folder holds")
    options = parser.parse_args()
    segmenter = load(options.backbone, None)
    facts = run_facts(segmenter, "nearest")
    folder = RunFolder(options.output, facts=facts, restart=options.restart)
    folds = [int(fold) for fold in options.folds.split(",")]
    supports = [int(position) for position in options.supports.split(",")]
    asked = [protocol for support in supports for protocol in protocols(support, folds)]
    seen = scans_seen(options.backbone, None, asked)
    run = RunOptions(1 if options.quick else None, seen, say)
    methods = make_methods(read_choices(options.methods, METHODS, option="methods"), segmenter)
    if options.universeg:
        methods.append(UniverSegMethod(options.universeg))
    rows = run_all(asked, methods=methods, folder=folder, options=run)
    show_rows(rows, options.output, about=facts)


if __name__ == "__main__":
    main()

"""Writes tumor weights again with settings that no training chose, the tensors as they are.

Usage: ``python benchmarks/tumor_config.py WEIGHTS --output FILE level=0.35 negative=true``.

Settings are those of ``TumorConfig`` that say how maps are used, not how the network is built. The weights of
the zero-shot evaluation have these two: ``level`` 0.35, as of version 6, and ``negative``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import TumorConfig

OF_USE = ("beside", "soft", "level", "negative")


def main() -> None:
    """Read, check, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("settings", nargs="+", metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    given = dict(setting.split("=", 1) for setting in options.settings)
    if odd := set(given) - set(OF_USE):
        parser.error(f"{', '.join(sorted(odd))}: not one of {', '.join(OF_USE)}")
    trained, facts = network.load(options.weights)
    before = trained.config.model_dump()
    trained.config = TumorConfig.model_validate(
        before | {name: json.loads(value) for name, value in given.items()}
    )
    network.save(options.output, trained, facts)
    for name in given:
        sys.stdout.write(f"{name}: {before[name]} -> {getattr(trained.config, name)}\n")


if __name__ == "__main__":
    main()

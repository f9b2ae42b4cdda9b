"""How often each data set is drawn from, so that large data sets and long scans do not dominate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def slice_chances(
    sources: NDArray[np.str_], usable: NDArray[np.bool_], shares: dict[str, float]
) -> NDArray[np.floating]:
    """Chance of each slice to be drawn, from its data set and whether it is of use.

    Args:
        sources: ``(N,)``, the data set of each slice.
        usable: ``(N,)``.
        shares: Share of draws by data set; the others divide the rest by the root of their number of
            usable slices.

    Returns:
        ``(N,)``, sums to 1; all are 0 where no slice is of use.
    """
    names = [name for name in np.unique(sources) if usable[sources == name].any()]
    given = {name: shares[name] for name in names if name in shares}
    roots = {name: float(np.sqrt(usable[sources == name].sum())) for name in names if name not in shares}
    rest = max(1 - sum(given.values()), 0.0) / max(sum(roots.values()), 1e-9)
    total = given | {name: root * rest for name, root in roots.items()}
    chance = np.zeros(len(sources))
    for name in names:
        here = usable & (sources == name)
        chance[here] = total[name] / here.sum()
    weight = float(chance.sum())
    return chance / weight if weight > 0 else chance

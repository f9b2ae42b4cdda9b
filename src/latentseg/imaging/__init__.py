"""Volumes with geometry: reading, writing, canonical slices and intensities.

Nothing here imports torch, and the file libraries are imported when a file of their kind is met.
"""

from latentseg.imaging.formats import default_suffix, read, read_labels, write_like
from latentseg.imaging.geometry import Canonical, check_same_grid, same_grid, to_canonical
from latentseg.imaging.intensity import guess_modality, normalize
from latentseg.imaging.resize import fit_square
from latentseg.imaging.volume import Volume

__all__ = [
    "Canonical",
    "Volume",
    "check_same_grid",
    "default_suffix",
    "fit_square",
    "guess_modality",
    "normalize",
    "read",
    "read_labels",
    "same_grid",
    "to_canonical",
    "write_like",
]

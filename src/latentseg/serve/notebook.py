"""A scan in a notebook: look at a result, or paint what to look for.

Example::

    import latentseg as ls

    scan = ls.read("ct.nii.gz")
    painting = ls.annotate(scan)
    painting  # paint on a slice or two
    liver = painting.support("liver")  # in the next cell
    ls.show(scan, ls.load()(scan, targets=[liver])["liver"])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, UsageError
from latentseg.imaging import Volume
from latentseg.methods.fewshot.support import Support
from latentseg.methods.results import Segmentation
from latentseg.serve.scan import window
from latentseg.serve.view import View, nifti_bytes, shown_values

HEIGHT = 420  # pixels
COLORMAPS = ("red", "blue", "green", "warm", "cool")


def show(scan: Volume, results: Segmentation | Iterable[Segmentation] = (), *, height: int = HEIGHT) -> Any:
    """A widget that shows a scan in three planes, with results over it.

    Args:
        scan: The scan.
        results: What was found in it.
        height: Of the widget in pixels.

    Raises:
        GeometryError: A result is on another grid.
        UsageError: ipyniivue is not installed.
    """
    view = View.of(scan)
    layers = [results] if isinstance(results, Segmentation) else list(results)
    rows = [image_of(scan, view)]
    for number, result in enumerate(layers):
        if result.mask.shape != scan.shape:
            what = f"the result has the shape {result.mask.shape} and the scan {scan.shape}"
            raise GeometryError(what, where=result.target, fix="show each result over its own scan")
        content = nifti_bytes(view.apply(result.mask).astype(np.uint8), view.affine_ras_mm)
        about = {"colormap": COLORMAPS[number % len(COLORMAPS)], "cal_min": 0.5, "cal_max": 1.0}
        rows.append({"data": content, "name": f"{result.target}.nii", "opacity": 0.5, **about})
    widget = viewer(height)
    widget.load_volumes(rows)
    return widget


@dataclass(frozen=True, eq=False)
class Painting:
    """A scan that is being painted on; a notebook shows it as a widget.

    Attributes:
        scan: The scan.
        widget: The widget.
    """

    scan: Volume
    widget: Any

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What was painted, ``(I, J, K)`` on the grid of the scan.

        Raises:
            UsageError: Nothing yet.
        """
        view, drawn = View.of(self.scan), self.widget.draw_bitmap
        if drawn is None or not np.any(drawn):
            fix = "paint on the widget above, then run this cell"
            raise UsageError("nothing was painted yet", fix=fix)
        return np.asarray(view.restore(np.asarray(drawn).reshape(view.shape, order="F") > 0))

    def support(self, name: str) -> Support:
        """What was painted as an example of a target.

        Args:
            name: What the target is called.

        Raises:
            UsageError: Nothing was painted yet.
        """
        mask = self.mask
        slices = int(np.count_nonzero(View.of(self.scan).apply(mask).any((0, 1))))
        painted = self.scan.with_array(mask.astype(np.uint8))
        return Support.from_volumes(self.scan, painted, name=name, slices=slices, complete=False)


def annotate(scan: Volume, *, height: int = HEIGHT) -> Painting:
    """A widget to paint on; :meth:`Painting.support` makes an example of what was painted.

    Args:
        scan: The scan.
        height: Of the widget in pixels.

    Raises:
        UsageError: ipyniivue is not installed.
    """
    widget = viewer(height)
    widget.load_volumes([image_of(scan, View.of(scan))])
    widget.set_drawing_enabled(True)
    widget.set_pen_value(1, False)
    return Painting(scan, widget)


def image_of(scan: Volume, view: View) -> dict[str, Any]:
    """The voxels of a scan as the widget takes them."""
    low, high = window(scan)
    content = nifti_bytes(shown_values(view.apply(scan.array)), view.affine_ras_mm)
    return {"data": content, "name": f"{scan.name}.nii", "colormap": "gray", "cal_min": low, "cal_max": high}


def viewer(height: int) -> Any:
    """An empty widget.

    Raises:
        UsageError: ipyniivue is not installed.
    """
    try:
        from ipyniivue import NiiVue
    except ImportError as error:
        fix = "pip install 'latentseg[notebook]'"
        raise UsageError("the widget needs ipyniivue", fix=fix) from error
    widget = NiiVue(height=height)
    widget.opts.is_radiological_convention = True
    return widget

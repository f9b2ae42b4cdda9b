"""Label maps under the names of the Brain Imaging Data Structure (BIDS), discrete segmentations."""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentseg.imaging.previews import PALETTE

DESCRIPTION = "desc-latentseg"
_ENTITY = re.compile(r"[a-z]+-[A-Za-z0-9]+")


def dseg_name(case: str) -> str:
    """The name of a discrete segmentation without its suffix, from the name of a scan.

    The entities of a BIDS name are kept, its last part, such as ``T2w``, becomes ``dseg``. Any other name is
    that of a subject, in the letters and digits that BIDS allows.

    Example:
        >>> dseg_name("sub-01_ses-2_T2w"), dseg_name("patient 7")
        ('sub-01_ses-2_desc-latentseg_dseg', 'sub-patient7_desc-latentseg_dseg')
    """
    parts = [part for part in case.split("_") if _ENTITY.fullmatch(part) and not part.startswith("desc-")]
    if not parts or not parts[0].startswith("sub-"):
        parts = [f"sub-{re.sub('[^A-Za-z0-9]', '', case) or 'scan'}"]
    return "_".join([*parts, DESCRIPTION, "dseg"])


def dseg_table(names: Sequence[str]) -> str:
    """The table of the labels 1, 2, ...: index, name and color, separated by tabs."""
    rows = [("index", "name", "color"), ("0", "background", "#000000")]
    for number, name in enumerate(names, start=1):
        color = "#{:02X}{:02X}{:02X}".format(*PALETTE[(number - 1) % len(PALETTE)])
        rows.append((str(number), " ".join(name.split()), color))
    return "".join("\t".join(row) + "\n" for row in rows)

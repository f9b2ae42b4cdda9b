"""Organs that nobody outlined in the slices of a pack: more people in whom synthetic tumors can grow.

Usage: ``python benchmarks/found_organs.py PACK --output FOLDER [--organs kidney,liver,pancreas]
[--sources pancreas-ct,liver-plain] [--weights FILE]``.

The pack is copied, and in scans of these sources the organs that have no label are labeled where trained
networks are sure of them, in what is brighter than fat. Slices are looked at one by one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.backbones.registry import resolve
from latentseg.imaging.files import write_json
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor import network
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.load import compact_stages
from latentseg.training.pack import Pack
from latentseg.training.tumor.lesion_sites import FAT, SMALLEST_HOST

SLAB = 8  # slices at a time
SURE = 0.6  # chance of an organ


def label_of(found: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where an organ surely is, by its chance in a slice, without fat and specks."""
    inside = ndimage.binary_opening((found > SURE) & (image > FAT), iterations=2)
    parts, count = ndimage.label(inside)
    sizes = ndimage.sum_labels(inside, parts, range(1, count + 1)) if count else np.zeros(0)
    return np.asarray(np.isin(parts, 1 + np.flatnonzero(sizes >= SMALLEST_HOST)))


def main() -> None:
    """Copy, look, label."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--organs", default="kidney,liver,pancreas")
    parser.add_argument("--sources", default="pancreas-ct,liver-plain")
    parser.add_argument("--weights", type=Path, help="Default: those of the abdomen that ship.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = resolve("compact")
    trained, _ = network.load(options.weights or folder / network.file_alone("abdomen"))
    frozen = compact_stages(folder, trained.config)
    pack, wanted, sources = Pack(options.pack), options.organs.split(","), options.sources.split(",")
    shutil.copytree(options.pack, options.output)
    labels = np.load(options.output / "labels.npy", mmap_mode="r+")
    scans, counted = [], dict.fromkeys(wanted, 0)
    for scan in pack.scans:
        names = dict(scan.labels)
        known = {name.split("_")[0] for name in names.values()}
        missing = [organ for organ in wanted if organ not in known and scan.source in sources]
        for first in range(scan.first, scan.first + scan.count, SLAB) if missing else ():
            rows = slice(first, min(first + SLAB, scan.first + scan.count))
            images = denoised(pack.images[rows].astype(np.float32) / 127.5 - 1)
            with torch.no_grad():
                chances = trained.organs(frozen(torch.from_numpy(images)[:, None])).softmax(1)
            for organ in missing:
                at = 1 + trained.organs.names.index(organ)
                sure = resized(chances[:, at : at + 1], labels.shape[1:])[:, 0].numpy()
                number = next((n for n, name in names.items() if name == organ), max(names, default=0) + 1)
                for row, one in zip(range(rows.start, rows.stop), sure, strict=True):
                    here = label_of(one, pack.images[row]) & (pack.labels[row] == 0)
                    labels[row][here] = number
                    counted[organ] += int(here.any())
                names[number] = organ
        scans.append(scan.model_copy(update={"labels": names}))
    labels.flush()
    write_json(options.output / "pack.json", [scan.model_dump(mode="json") for scan in scans])
    sys.stdout.write("".join(f"{organ} in {count} slices\n" for organ, count in counted.items()))


if __name__ == "__main__":
    main()

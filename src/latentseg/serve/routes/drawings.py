"""What people draw, what stands, and what they say of it."""

from __future__ import annotations

import struct
import zlib
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from latentseg.errors import InputError, UsageError
from latentseg.imaging.components import box_around
from latentseg.serve.between import fill_between
from latentseg.serve.drawings import drawn_slices, read_drawn
from latentseg.serve.found import STEPS, Found, change, doubt_by_slice, final_mask, read_found
from latentseg.serve.missing import NotHere
from latentseg.serve.routes.common import Bench, TargetId, TheScan, User
from latentseg.serve.routes.scans import BINARY, UPLOAD
from latentseg.serve.scan import Scan
from latentseg.serve.schemas import Comparison, Judged, Profile, ScanRow, Undone, VerdictChange
from latentseg.serve.view import nifti_bytes

router = APIRouter(prefix="/api/scans/{scan}", tags=["drawings"])
MOST_DRAWN_BYTES = 1 << 28
SliceList = Annotated[
    str,
    Query(pattern=r"^\d{1,5}(,\d{1,5})*$", max_length=20_000, description="z", examples=["12,13"]),
]
MASK = """A mask in the view frame: six little-endian uint32, first and one past the last index along x, y
and z, then the voxels of that box as bytes 0 and 1, x fastest."""


@router.put("/drawings/{target}", response_model=ScanRow, openapi_extra=UPLOAD)
async def put_drawing(
    scan: TheScan, target: TargetId, slices: SliceList, request: Request, bench: Bench, who: User
) -> dict[str, Any]:
    """Keep slices as a person drew them: bytes 0 and 1, x fastest, one slice after the other."""
    from starlette.concurrency import run_in_threadpool

    body = await request.body()
    numbers = slice_numbers(slices)

    def keep() -> dict[str, Any]:
        x, y, _ = scan.shape
        raw = unpacked(body, request.headers.get("content-encoding", ""), x * y * len(numbers))
        masks = np.frombuffer(raw, np.uint8).reshape((x, y, len(numbers)), order="F") > 0
        bench.draw(scan, target, {z: masks[:, :, n] for n, z in enumerate(numbers)}, who=who)
        return bench.scan_row(scan)

    return await run_in_threadpool(keep)


@router.delete("/drawings/{target}", response_model=ScanRow)
def forget_drawing(
    scan: TheScan, target: TargetId, slices: SliceList, bench: Bench, who: User
) -> dict[str, Any]:
    """Give slices back to the model, as if nobody had looked at them."""
    bench.forget(scan, target, slice_numbers(slices), who=who)
    return bench.scan_row(scan)


@router.post("/interpolate/{target}", response_model=ScanRow)
def interpolate(scan: TheScan, target: TargetId, bench: Bench, who: User) -> dict[str, Any]:
    """Fill the slices between drawn ones by their shape; they count as drawn."""
    bench.draw(scan, target, fill_between(read_drawn(scan, target)), who=who)
    return bench.scan_row(scan)


@router.post("/undo", response_model=Undone)
def undo(scan: TheScan, bench: Bench, who: User) -> dict[str, Any]:
    """Take back the last drawing."""
    event = bench.undo(scan, who=who) or {"target": None, "slices": []}
    return {"target": event["target"], "slices": event["slices"]}


@router.get("/masks/{target}", response_class=Response, responses=BINARY, description=MASK)
def mask(
    scan: TheScan,
    target: TargetId,
    bench: Bench,
    before: Annotated[bool, Query(description="The result before the last one.")] = False,
) -> Response:
    """What stands: what was found, and on drawn slices what was drawn."""
    bench.project.target(target)
    array = the_found(scan, target, before=True).mask if before else final_mask(scan, target)
    box = box_around(array)
    inside = array[box].astype(np.uint8)
    head = struct.pack("<6I", *(edge for side in box for edge in (side.start, side.stop)))
    return Response(head + inside.tobytes(order="F"), media_type="application/octet-stream")


@router.get("/probability/{target}", response_class=Response, responses=BINARY)
def probability(
    scan: TheScan,
    target: TargetId,
    doubt: Annotated[bool, Query(description="Doubt instead: most at one half.")] = False,
) -> Response:
    """Probability from 0 to 255, or doubt, as NIfTI in RAS order; drawn slices are certain."""
    array = the_found(scan, target).probability.copy()
    for z, drawn in read_drawn(scan, target).items():
        array[:, :, z] = np.where(drawn, STEPS, 0)
    if doubt:
        array = (STEPS - np.abs(2 * array.astype(np.int16) - STEPS)).astype(np.uint8)
    return Response(nifti_bytes(array, view_affine(scan)), media_type="application/octet-stream")


@router.get("/profile/{target}", response_model=Profile)
def profile(scan: TheScan, target: TargetId) -> dict[str, Any]:
    """For each slice whether it holds the target, and how much the model doubts, from 0 to 100."""
    found = the_found(scan, target)
    drawn = set(drawn_slices(scan, target))
    doubt = [0 if z in drawn else value for z, value in enumerate(doubt_by_slice(found.probability))]
    return {"held": final_mask(scan, target).any((0, 1)).astype(int).tolist(), "doubt": doubt}


@router.get("/comparison/{target}", response_model=Comparison)
def comparison(scan: TheScan, target: TargetId) -> dict[str, Any]:
    """The result before the last one beside what stands."""
    before, after = the_found(scan, target, before=True), the_found(scan, target)
    stands = final_mask(scan, target)
    voxel_ml = float(np.prod(scan.about["spacing_mm"])) / 1000
    return {
        "dice": change(stands, before.mask)["agreement"],
        "before_ml": round(float(np.count_nonzero(before.mask)) * voxel_ml, 3),
        "after_ml": round(float(np.count_nonzero(stands)) * voxel_ml, 3),
        "before_at": str(before.about["at"]),
        "after_at": str(after.about["at"]),
    }


@router.put("/verdicts/{target}", response_model=Judged)
def judge(scan: TheScan, target: TargetId, change: VerdictChange, bench: Bench, who: User) -> dict[str, Any]:
    """Accept or reject what stands; what is accepted becomes an example."""
    from dataclasses import asdict

    jobs = bench.judge(scan, target, change.verdict, who=who, learn=change.learn)
    return {"scan": bench.scan_row(scan), "jobs": [asdict(job) for job in jobs]}


def the_found(scan: Scan, target: int, *, before: bool = False) -> Found:
    """A result.

    Raises:
        NotHere: There is none.
    """
    found = read_found(scan, target, before=before)
    if found is None:
        what = "nothing was found before that" if before else "this target was not looked for yet"
        raise NotHere(what, where=scan.name, fix="press find")
    return found


def view_affine(scan: Scan) -> Any:
    """The affine of the view file, from its header alone."""
    import nibabel as nib

    image: Any = nib.load(scan.view_file)
    return image.affine


def slice_numbers(slices: str) -> list[int]:
    """Numbers of slices, each once.

    Raises:
        UsageError: One comes twice.
    """
    numbers = [int(number) for number in slices.split(",")]
    if len(set(numbers)) != len(numbers):
        raise UsageError("a slice was named twice", fix="name each slice once")
    return numbers


def unpacked(body: bytes, encoding: str, expected: int) -> bytes:
    """A body, unpacked where it is compressed, of exactly the length that its slices take.

    Raises:
        InputError: Another length, or damaged.
    """
    if expected > MOST_DRAWN_BYTES:
        raise InputError("too many slices at once", fix="send fewer slices at a time")
    if encoding == "gzip":
        try:
            unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            body = unpacker.decompress(body, expected + 1)
        except zlib.error as error:
            raise InputError("the drawing is damaged", fix="send it again") from error
    if len(body) != expected:
        what = f"the drawing has {len(body)} bytes, its slices take {expected}"
        raise InputError(what, fix="send one byte for each voxel of each slice")
    return body

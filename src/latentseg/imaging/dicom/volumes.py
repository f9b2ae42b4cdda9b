"""Several volumes in one series, such as echoes, phases or b-values: told apart by their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from latentseg.errors import GeometryError, InputError, UsageError, caution
from latentseg.imaging.dicom.frames import SETS_APART, Frame
from latentseg.imaging.dicom.pixels import decode

SHOWN_VALUES = 4
SEPARATE = "Separate the acquisitions into folders of their own"


_decoded = lru_cache(maxsize=2)(decode)  # frames of one file are compared one after the other


class Part(NamedTuple):
    """One volume of several.

    Attributes:
        label: what sets it apart, such as ``"EffectiveEchoTime 4.6"``.
        frames: its slices.
    """

    label: str
    frames: list[Frame]


def single_images(frames: list[Frame], where: str, *, volume: int | None = None) -> tuple[list[Frame], int]:
    """The slices of one volume, and how many volumes there are; copies of an image are left out.

    Args:
        frames: those of a series.
        where: the series, for messages.
        volume: which of several, from 1.

    Raises:
        UsageError: no such volume.
        InputError: frames of different sizes or coordinate systems, or several volumes and none chosen.
    """
    _check_alike(frames, where)
    try:
        return _chosen(frames, where, volume)
    finally:
        _decoded.cache_clear()


def _chosen(frames: list[Frame], where: str, volume: int | None) -> tuple[list[Frame], int]:
    parts = _parts(frames)
    if volume is not None and not 1 <= volume <= len(parts):
        there = "only one volume" if len(parts) == 1 else f"only {len(parts)} volumes"
        fix = f"Give --volume N from 1 to {len(parts)}" if len(parts) > 1 else "Leave --volume out"
        raise UsageError(f"there is no volume {volume}, {there}", where=where, fix=fix)
    if volume is None and len(parts) > 1:
        raise _several(frames, parts, where)
    part = parts[(volume or 1) - 1]
    groups = _by_place(part.frames)
    if any(not _are_copies(group) for group in groups):
        fix = "Separate them into one folder per volume"
        raise InputError(_difference(part.frames), where=where, fix=fix)
    copies = len(part.frames) - len(groups)
    if copies:
        caution(f"{where}: {copies} copies of images were left out")
    return [group[0] for group in groups], len(parts)


def _check_alike(frames: Sequence[Frame], where: str) -> None:
    for what, values in (
        ("sizes (columns, rows)", {frame.size for frame in frames}),
        ("frames of reference", {frame.frame_of_reference for frame in frames}),
    ):
        if len(values) > 1:
            listed = ", ".join(map(str, sorted(values)[:SHOWN_VALUES]))
            raise GeometryError(f"the slices have {len(values)} {what}: {listed}", where=where, fix=SEPARATE)


def _by_place(frames: Sequence[Frame]) -> list[list[Frame]]:
    ordered = sorted(frames, key=lambda frame: (frame.place, frame.taken))
    return [list(group) for _, group in groupby(ordered, key=lambda frame: frame.place)]


def _parts(frames: list[Frame]) -> list[Part]:
    """The volumes of a series: one, where no position holds different images."""
    groups = _by_place(frames)
    if all(len(group) == 1 or _are_copies(group) for group in groups):
        return [Part("", frames)]
    traits = {id(frame): frame.traits() for frame in frames}
    names = _telling(groups, traits)
    volumes: dict[tuple[str, ...], list[Frame]] = {}
    for frame in sorted(frames, key=lambda frame: frame.taken):
        volumes.setdefault(_key(traits[id(frame)], names), []).append(frame)
    rank = _ranks(list(volumes))
    parts = []
    for key in sorted(volumes, key=lambda key: [rank[n][value] for n, value in enumerate(key)]):
        label = ", ".join(f"{name} {value or '(none)'}" for name, value in zip(names, key, strict=True))
        parts += _in_order(Part(label, volumes[key]))
    return parts


def _telling(groups: Sequence[Sequence[Frame]], traits: Mapping[int, Mapping[str, str]]) -> list[str]:
    """The fewest attributes that tell images at one position apart, alike at all positions."""
    most = max(map(len, groups))
    others = sorted({name for group in groups for frame in group for name in traits[id(frame)]})
    names: list[str] = []
    apart = 1
    for name in (*SETS_APART, *(name for name in others if name not in SETS_APART)):
        tried = [*names, name]
        keys = [{_key(traits[id(frame)], tried) for frame in group} for group in groups]
        finer = max(map(len, keys))
        if apart < finer and len(set().union(*keys)) <= most:
            names, apart = tried, finer
    return names


def _key(traits: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(traits.get(name, "") for name in names)


def _ranks(keys: Sequence[tuple[str, ...]]) -> list[dict[str, int]]:
    """The order of each attribute's values: by number where they are numbers, else as they appear."""
    columns = [list(dict.fromkeys(column)) for column in zip(*keys, strict=True)]
    return [{value: n for n, value in enumerate(_sorted_numbers(values))} for values in columns]


def _sorted_numbers(values: list[str]) -> list[str]:
    try:
        return sorted(values, key=lambda value: float(value or "-inf"))
    except ValueError:
        return values


def _in_order(part: Part) -> list[Part]:
    """Volumes that no attribute tells apart, by the order in which images at one position were taken."""
    groups = _by_place(part.frames)
    counts = {len(group) for group in groups}
    if counts == {1} or len(counts) > 1 or all(map(_are_copies, groups)):
        return [part]
    count = counts.pop()
    start = f"{part.label}, " if part.label else ""
    return [
        Part(f"{start}image {n + 1} of {count} by time", [group[n] for group in groups]) for n in range(count)
    ]


def _are_copies(group: Sequence[Frame]) -> bool:
    """Whether images at one position are the same one."""
    first = group[0]
    return all(
        first.rescale == other.rescale
        and np.array_equal(_decoded(first.entry)[first.number], _decoded(other.entry)[other.number])
        for other in group[1:]
    )


def _several(frames: Sequence[Frame], parts: Sequence[Part], where: str) -> InputError:
    what = _difference(frames)
    listed = "; ".join(f"{n} is {part.label}" for n, part in enumerate(parts[:SHOWN_VALUES], start=1))
    rest = f"; and so on to {len(parts)}" if len(parts) > SHOWN_VALUES else ""
    fix = f"Choose one of them (--volume N: {listed}{rest})"
    return InputError(what, where=where, fix=fix)


def _difference(frames: Sequence[Frame]) -> str:
    """In what the headers of images at one position differ."""
    groups = _by_place(frames)
    group = next(group for group in groups if not _are_copies(group))
    traits = {id(frame): frame.traits() for frame in frames}
    there = f"{len(frames)} images lie at {len(groups)} positions; {len(group)} at one position differ in"
    names = _telling(groups, traits)
    if not names:
        return f"{there} their pixels, such as {group[0].name} and {group[1].name}"
    told = []
    for name in names:
        values = list(dict.fromkeys(traits[id(frame)].get(name, "none") for frame in group))
        rest = ", ..." if len(values) > SHOWN_VALUES else ""
        told.append(f"{name} ({', '.join(values[:SHOWN_VALUES])}{rest})")
    return f"{there} {' and '.join(told)}"

"""What users give as examples, as a list of supports: one or many, in memory, on disk, or encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentseg.errors import UsageError
from latentseg.imaging.intensity import Modality
from latentseg.imaging.objects import kind_name
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_folder import SupportFolder

if TYPE_CHECKING:
    from latentseg.methods.fewshot.context import SupportContext

WANTED = (
    "give a Support, a SupportContext, a folder of examples, a .safetensors file, {name: (image, mask)}, "
    "or a list of these"
)


def as_supports(
    anything: Any, *, modality: Modality | None = None, orientation: str | None = None
) -> list[Support | SupportContext]:
    """The supports that something stands for; a lone one needs no list.

    Args:
        anything: A :class:`Support` or an encoded :class:`SupportContext`; the path of a folder of examples,
            which gives all targets it names, or of a saved context; a dictionary of targets, each a pair of
            image and mask, a list of such pairs, or a support; or any collection of these.
        modality: CT or MR, where examples that are read do not tell.
        orientation: Axis codes that overrule the wrong affines of examples that are read.

    Raises:
        UsageError: Nothing of this.
        InputError: Examples that cannot be read.
    """
    how = {"modality": modality, "orientation": orientation}
    return list(_supports(anything, how))


def _supports(anything: Any, how: Mapping[str, Any]) -> Iterator[Support | SupportContext]:
    from latentseg.methods.fewshot.context import SupportContext

    if isinstance(anything, Support | SupportContext):
        yield anything
    elif isinstance(anything, str | Path):
        yield from _of_path(Path(anything), how)
    elif isinstance(anything, Mapping):
        for name, shown in anything.items():
            yield _of_entry(str(name), shown, how)
    elif isinstance(anything, Iterable) and not hasattr(anything, "__array__"):
        for one in anything:
            yield from _supports(one, how)
    else:
        raise UsageError(f"{kind_name(anything)} is no support", fix=WANTED)


def _of_path(path: Path, how: Mapping[str, Any]) -> Iterator[Support | SupportContext]:
    from latentseg.methods.fewshot.context import SupportContext

    if path.suffix == ".safetensors":
        yield SupportContext.load(path)
        return
    if path.is_file():
        fix = "give {name: (image, mask)}, or Support.from_files((image, mask), name=...)"
        raise UsageError("a file alone is no example", where=str(path), fix=fix)
    if not path.exists():
        raise UsageError("a support is no word, and there is no such folder", where=str(path), fix=WANTED)
    names = list(SupportFolder(path).names) or [path.resolve().name]
    yield from Support.several_from_folder(path, targets=names, **how)


def _of_entry(name: str, shown: Any, how: Mapping[str, Any]) -> Support | SupportContext:
    from latentseg.methods.fewshot.context import SupportContext

    if isinstance(shown, SupportContext | Support):
        if shown.name != name:
            what = f"the support of {shown.name!r} is listed as {name!r}"
            raise UsageError(what, fix="give the supports in a list, without names")
        return shown
    return Support.from_files(shown, name=name, **how)

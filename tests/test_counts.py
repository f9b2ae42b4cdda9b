"""How often files are read and networks run: work that is done once must not come to be done twice.

Counts instead of seconds, which no machine repeats. Reads are counted where Python opens files, and runs
where tensors enter the networks.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import latentseg as ls
from latentseg.backbones import registry
from latentseg.cli.request import read_targets
from latentseg.imaging import write_like
from latentseg.methods.fewshot import cell_margins
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.tumor import queries
from latentseg.phantom.bodies import Phantom, abdomen

NAMES = {"liver": 1, "kidney_right": 2, "kidney_left": 3, "spleen": 4}

_opened: list[Counter[str]] = []  # of those who listen


def _listen(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _opened and isinstance(args[0], str | Path):
        for counter in _opened:
            counter[Path(args[0]).name] += 1


sys.addaudithook(_listen)  # there is no way to remove a hook, but to have nobody listen


@contextmanager
def counting_files() -> Iterator[Counter[str]]:
    """How often each file is opened meanwhile, by its name."""
    counter: Counter[str] = Counter()
    _opened.append(counter)
    try:
        yield counter
    finally:
        _opened.remove(counter)


@contextmanager
def counting_slices(module: torch.nn.Module) -> Iterator[list[int]]:
    """How many slices enter a network meanwhile, run by run."""
    runs: list[int] = []

    def note(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        runs.append(len(args[0]))

    handle = module.register_forward_pre_hook(note)
    try:
        yield runs
    finally:
        handle.remove()


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Any, ...]]:
    """The calls of a function from now on."""
    calls: list[tuple[Any, ...]] = []
    function: Callable[..., Any] = getattr(module, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, noted)
    return calls


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder of two scans that show four targets."""
    for seed in (2, 3):
        phantom = abdomen(seed=seed, shape=(64, 64, 10))
        for ending, array in (("", phantom.image.array), ("_label", phantom.labels.array)):
            kind = "labels" if ending else "image"
            write_like(array, like=phantom.image, path=tmp_path / f"p{seed}{ending}.nii.gz", kind=kind)
    (tmp_path / "labels.json").write_text(json.dumps(NAMES), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def segmenter(tiny_model: Path) -> FewShotSegmenter:
    return ls.load(backbone=tiny_model)


@pytest.fixture(scope="module")
def by_slices(tiny_model: Path) -> FewShotSegmenter:
    """The segmenter that compares slices, as for pictures: volumes need no autoencoder."""
    return ls.load(backbone=tiny_model, options=ls.SegmentOptions(volume=None))


@pytest.fixture
def support(shown: Phantom) -> ls.Support:
    return ls.Support.from_volumes(shown.image, shown.labels, name="spleen", label=4)


def test_files_of_supports_are_read_once_for_all_targets(examples: Path) -> None:
    with counting_files() as for_one:
        read_targets([examples], ["spleen"], modality="CT")
    with counting_files() as for_all:
        targets = read_targets([examples], None, modality="CT")
    assert [target.name for target in targets] == list(NAMES)
    files = [path.name for path in examples.glob("*.nii.gz")]
    assert {name: for_all[name] for name in files} == {name: for_one[name] for name in files}


def test_three_support_slices_are_six_slices_for_the_autoencoder(
    by_slices: FewShotSegmenter, support: ls.Support
) -> None:
    """Each as an image and as a mask; the features of the condition come from the same pass."""
    with counting_slices(by_slices.networks.backbone.vae.encoder) as runs:
        by_slices.encode(support)
    assert sum(runs) == 2 * len(support) == 6


def test_a_scan_passes_each_network_once_for_all_targets(
    by_slices: FewShotSegmenter, shown: Phantom, searched: Phantom
) -> None:
    targets = [
        by_slices.encode(ls.Support.from_volumes(shown.image, shown.labels, name=name, label=label))
        for name, label in NAMES.items()
    ]
    assert by_slices.networks.matching is not None
    with (
        counting_slices(by_slices.networks.backbone.vae.encoder) as encoded,
        counting_slices(by_slices.networks.matching.network.stem) as matched,
        counting_slices(by_slices.networks.backbone.vae.decoder) as decoded,
    ):
        prepared = by_slices.prepare(searched.image)
        assert sum(encoded) == sum(matched) == searched.image.shape[2]
        for target in targets:
            by_slices.predict(prepared, target)
    assert sum(encoded) == searched.image.shape[2]
    assert decoded == []  # the mask head reads latents


def test_a_scan_is_laid_on_each_example_once(
    segmenter: FewShotSegmenter, support: ls.Support, searched: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both searches, the fit that weights examples, and all targets of an example share one alignment."""
    other = dataclasses.replace(support.scans[0], images=np.flip(support.scans[0].images, 2).copy())
    both = dataclasses.replace(support, scans=(*support.scans, other))
    context, prepared = segmenter.encode(both), segmenter.prepare(searched.image)
    calls = counted(monkeypatch, cell_margins, "align")
    segmenter.predict(prepared, context)
    assert len(calls) == len(both.scans) == 2
    segmenter.predict(prepared, context)
    assert len(calls) == 2


def test_a_prompt_is_parsed_and_embedded_once(
    tiny_tumor_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model, options=ls.TumorOptions(refinement=None))
    parsed = counted(monkeypatch, queries, "read_prompt")
    scan = abdomen(seed=1, shape=(64, 60, 6)).image
    segmenter(scan, ["liver tumor", "kidney cyst"])
    assert len(parsed) == 2


@pytest.mark.skipif(not registry.is_present("compact"), reason="the compact weights are not in this checkout")
@pytest.mark.parametrize("method", ["fewshot", "tumor"])
def test_the_manifest_of_a_model_is_read_once(method: Any) -> None:
    with counting_files() as opened:
        ls.load(method)
    assert opened["manifest.json"] == 1

"""Training of the body network: what is packed, what is drawn, and that numpy computes what torch learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentseg.cli import main
from latentseg.errors import InputError
from latentseg.imaging import Volume, write_like
from latentseg.imaging.body_network import PICTURE, BodyNetwork, load_network
from latentseg.training.augment import Geometry
from latentseg.training.body.model import BodyModel, folded
from latentseg.training.body.pack import (
    BodyPack,
    BodyPackOptions,
    BodyPhantoms,
    BodySource,
    PackedBody,
    pack_body,
)
from latentseg.training.body.pictures import PictureOptions, Pictures
from latentseg.training.body.task import BodyOptions, BodyTask, distance_loss
from latentseg.training.loop import LoopOptions

PHANTOM = BodyPhantoms(name="limb", phantom="limb", seeds=(0, 1), tells="none", middle_mm=-480)
STILL = Geometry(degrees=0, zoom=(1, 1), stretch=0, shift=0, elastic=0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> BodyPack:
    return pack_body(BodyPackOptions(sources=(PHANTOM,)), data=Path(), folder=tmp_path_factory.mktemp("pack"))


def made(cells: np.ndarray, **facts: object) -> BodyPack:
    """A pack of one scan."""
    one = object.__new__(BodyPack)
    one.scans = [PackedBody(name="one", case="one", layer_mm=6.5, **facts)]  # type: ignore[arg-type]
    one.cells = [cells]
    return one


def test_a_pack_holds_what_is_known(packed: BodyPack) -> None:
    (scan,), (cells,) = packed.scans, packed.cells
    assert (scan.name, scan.tells, scan.middle_mm, scan.kidneys_mm) == ("limb", "none", -480, None)
    assert cells.dtype == np.uint8
    assert len(cells) * scan.layer_mm > 100


def test_kidneys_give_a_scan_its_zero_and_windows_make_it_several(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 30), np.uint8)
    labels[2:5, 5:9, 8:12], labels[12:15, 5:9, 12:16] = 2, 3
    image = np.random.default_rng(0).integers(-900, 900, labels.shape).astype(np.int16)
    like = Volume(image, np.diag([5.0, 5.0, 4.0, 1.0]))
    write_like(image, like=like, path=tmp_path / "image_1.nii.gz", kind="image")
    write_like(labels, like=like, path=tmp_path / "label_1.nii.gz")
    source = BodySource(
        name="a",
        images="image_*.nii.gz",
        modality="CT",
        windows=((-125, 275), (-1000, 600)),
        labels=("image", "label"),
        kidneys=(2, 3),
    )
    packed = pack_body(BodyPackOptions(sources=(source,)), data=tmp_path, folder=tmp_path / "pack")
    assert [scan.kidneys_mm for scan in packed.scans] == [48.0, 48.0]
    assert not np.array_equal(*packed.cells)


def test_what_must_not_be_trained_on_is_left_out(tmp_path: Path) -> None:
    source = BodySource(name="a", images="*.nii.gz", exclude=("image_1",))
    (tmp_path / "image_1.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="source 'a' matches no file"):
        pack_body(BodyPackOptions(sources=(source,)), data=tmp_path, folder=tmp_path / "pack")


def test_a_damaged_or_missing_pack_is_an_input_error(tmp_path: Path, packed: BodyPack) -> None:
    with pytest.raises(InputError, match="no packed scans are here"):
        BodyPack(tmp_path)
    (tmp_path / "body.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(InputError, match="the pack is damaged"):
        BodyPack(tmp_path)


def test_pictures_are_drawn_right_way_round_mirrored_and_otherwise() -> None:
    cells = np.zeros((40, 40, 40), np.uint8)
    cells[:, 5:35, 5:35] = 120
    cells[:, 5:20, 5:10] = 250
    options = PictureOptions(scans=2, slices=3, others=2, singles=2, cropped=0, curve=0, geometry=STILL)
    batch = Pictures(made(cells, kidneys_mm=100.0), options).draw(np.random.default_rng(0))
    assert batch.pictures.shape == (10, 3, PICTURE, PICTURE)
    assert torch.equal(batch.pictures[:, 0].flip(-1), batch.pictures[:, 1])
    assert batch.planes.argmax(1).tolist()[:6] == [0] * 6
    assert set(batch.planes.argmax(1).tolist()[6:8]) <= {1, 2}
    assert batch.group.tolist() == [0] * 3 + [1] * 3 + [-1] * 4
    known = batch.group >= 0
    assert torch.allclose(batch.anchor_mm[known], batch.along_mm[known] - 100)
    assert batch.anchor_mm[~known].isnan().all()


@pytest.mark.parametrize("tells", ["all", "no sides", "none"])
def test_the_target_is_as_unsure_as_the_picture(tells: str) -> None:
    cells = np.random.default_rng(0).integers(0, 255, (12, 20, 20)).astype(np.uint8)
    options = PictureOptions(scans=1, slices=2, others=0, singles=0)
    planes = Pictures(made(cells, tells=tells), options).draw(np.random.default_rng(1)).planes[0].tolist()
    expected = {
        "all": [1, 0, 0, 0, 0, 0, 0, 0, 0],
        "no sides": [0.5, 0, 0, 0.5, 0, 0, 0, 0, 0],
        "none": [1 / 24] * 6 + [0.25] * 3,
    }[tells]
    assert planes == pytest.approx(expected)


def test_cases_that_are_left_out_are_never_drawn(packed: BodyPack) -> None:
    assert Pictures(packed, PictureOptions(without=("limb-0",))).scans == []


def test_distances_are_judged_within_each_scan() -> None:
    along = torch.tensor([0.0, 50.0, 100.0, 0.0, 80.0, 7.0])
    group = torch.tensor([0, 0, 0, 1, 1, -1])
    level = torch.tensor([500.0, 500.0, 500.0, -90.0, -90.0, 3e4])
    spread = torch.full((6,), 10.0)
    right, missed = distance_loss(along + level, spread, group, along)
    assert missed == pytest.approx(0, abs=0.05)
    wrong, far = distance_loss(level - along, spread, group, along)
    assert far > 30
    assert wrong > right + 1


def test_numpy_computes_what_torch_learned() -> None:
    torch.manual_seed(0)
    model = BodyModel()
    for _ in range(3):
        model.train()(torch.rand(8, 1, PICTURE, PICTURE) * 2 - 1)
    pictures = torch.rand(5, 1, PICTURE, PICTURE) * 2 - 1
    with torch.no_grad():
        planes, height, spread = model.eval()(pictures)
    reading = BodyNetwork(folded(model))(pictures[:, 0].numpy(), batch=2)
    assert np.allclose(reading.planes, planes.numpy(), atol=2e-3)
    assert np.allclose(reading.height_mm, height.numpy(), atol=0.2)
    assert np.allclose(reading.spread_mm, spread.numpy(), atol=0.2)


def test_a_training_learns_and_exports(tmp_path: Path, packed: BodyPack) -> None:
    options = BodyOptions(
        loop=LoopOptions(steps=4, learning_rate=1e-3, warmup=1),
        pictures=PictureOptions(scans=1, slices=3, others=1, singles=1),
        many=(2, 3),
    )
    task = BodyTask(options, packed)
    loss, figures = task.loss(task.batch(np.random.default_rng(0), 0.0))
    loss.backward()
    assert set(figures) == {"turned", "right", "missed_mm"}
    assert all(parameter.grad is not None for parameter in task.model.parameters())
    task.model.zero_grad()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    loss, figures = task.loss(task.batch(np.random.default_rng(0), 0.9))
    loss.backward()
    assert set(figures) == {"missed_mm"}
    taught = {name for name, parameter in task.model.named_parameters() if parameter.grad is not None}
    assert taught == {"height_hidden.weight", "height_hidden.bias", "height.weight", "height.bias"}
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    task.export(task.model, tmp_path)
    assert load_network(tmp_path / "body.safetensors").dense["plane"][0].shape[1] == 3


def test_the_verbs_pack_and_train(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    recipe = tmp_path / "pack.yaml"
    recipe.write_text(
        "sources:\n  - {name: limb, phantom: limb, seeds: [0, 1], middle_mm: -480}\n", encoding="utf-8"
    )
    assert main(["train", "pack-body", str(recipe), "--out", str(tmp_path / "p")]) == 0
    training = tmp_path / "body.yaml"
    training.write_text(
        "loop: {steps: 2, learning_rate: 0.001}\nmany: [2, 2]\n"
        "pictures: {scans: 1, slices: 2, others: 1, singles: 1}\n",
        encoding="utf-8",
    )
    arguments = ["train", "body", str(training), "--pack", str(tmp_path / "p"), "--out", str(tmp_path / "r")]
    assert main(arguments) == 0
    assert (tmp_path / "r" / "body.safetensors").exists()

"""The training of the picture network: its batches, and that it learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from helpers import packs
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.cli import main
from latentseg.errors import ModelError
from latentseg.methods.tumor.picture_network import PictureConfig, file_of_picture, read_picture
from latentseg.training.config import read_config
from latentseg.training.loop import LoopOptions, trained
from latentseg.training.pack import Pack
from latentseg.training.tumor.picture import (
    PictureBatch,
    PictureTask,
    PictureTrainingOptions,
    map_loss,
    mixed,
    pasted,
)
from latentseg.training.tumor.samples import SampleOptions

OPTIONS = PictureTrainingOptions(
    loop=LoopOptions(steps=2, learning_rate=1e-2, warmup=1, log_every=1, threads=1, precision="fp32"),
    network=PictureConfig(widths=(8, 8, 8, 16)),
    samples=SampleOptions(
        findings={"spleen": "spleen lesion"},
        organs={"kidney_right": "right kidney", "vertebrae": "bone"},
        real=0.9,
    ),
    batch=4,
)


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    out: Pack = packs.small_pack(tmp_path / "data")
    return out


def halves() -> PictureBatch:
    """Four pictures of one grey each, two of them with a tumor in the upper half."""
    images = torch.tensor([-0.5, 0.0, 0.5, 1.0]).view(4, 1, 1, 1).expand(-1, 1, 32, 32).clone()
    masks = torch.zeros_like(images)
    masks[:2, :, :12] = 1
    return PictureBatch(images, masks)


def test_a_tumor_is_put_into_another_picture_with_its_mask() -> None:
    batch = halves()
    assert all(
        torch.equal(a, b)
        for a, b in zip(pasted(batch, np.random.default_rng(0), share=0.0), batch, strict=True)
    )
    found = pasted(batch, np.random.default_rng(1), share=1.0)
    other = np.random.default_rng(1).permutation(4)
    for row, source in enumerate(other):
        torch.testing.assert_close(
            found.masks[row], torch.maximum(batch.masks[row] * found.masks[row], batch.masks[source])
        )
        if source < 2:
            torch.testing.assert_close(found.images[row, :, :8], batch.images[source, :, :8])
        torch.testing.assert_close(found.images[row, :, -8:], batch.images[row, :, -8:])


def test_pictures_and_masks_are_mixed_alike() -> None:
    batch = halves()
    found = mixed(batch, np.random.default_rng(3))
    other = np.random.default_rng(3).permutation(4)
    share = (found.images - batch.images)[:, 0, 0, 0] / (batch.images[other] - batch.images)[:, 0, 0, 0]
    share = share[~share.isnan()]
    torch.testing.assert_close(share, share[:1].expand(len(share)))
    assert 0 <= share[0] <= 0.5
    torch.testing.assert_close(found.masks, torch.lerp(batch.masks, batch.masks[other], float(share[0])))


def test_the_loss_is_least_where_the_map_is_right() -> None:
    masks = halves().masks
    right = adaptive_avg_pool2d(masks, 8) * 20 - 10
    assert map_loss(right, masks) < 0.1 * map_loss(torch.zeros_like(right), masks)
    assert map_loss(-right, masks) > map_loss(torch.zeros_like(right), masks)


def test_a_training_writes_weights_that_another_starts_from(packed: Pack, tmp_path: Path) -> None:
    photographs = FeatureNetwork(tiny_state())
    task = PictureTask(OPTIONS, packed, photographs)
    before = {name: t.clone() for name, t in task.model.state_dict().items()}
    assert sum(len(group.parameters) for group in task.groups()) < len(before)
    model = trained(task, OPTIONS.loop, tmp_path / "run", resume=False)
    changed = {
        name.split(".")[0] for name, t in model.state_dict().items() if not torch.equal(t, before[name])
    }
    assert changed == {"blocks", "context", "up", "out"}
    file = tmp_path / "run" / file_of_picture("head")
    assert read_picture(file, photographs).config == OPTIONS.network
    again = PictureTask(OPTIONS, packed, photographs, weights=file).model.state_dict()
    torch.testing.assert_close(again, dict(model.state_dict()), atol=2e-3, rtol=2e-3)
    with pytest.raises(ModelError, match="unreadable weights"):
        PictureTask(OPTIONS, packed, photographs, weights=tmp_path / "none.safetensors")


def test_the_command_trains_on_the_network_for_photographs(packed: Pack, tmp_path: Path) -> None:
    config = tmp_path / "picture.yaml"
    config.write_text(
        "loop: {steps: 1, learning_rate: 1.0e-3, warmup: 1, threads: 1}\n"
        "batch: 2\n"
        "part: abdomen\n"
        "samples: {findings: {spleen: spleen lesion},\n"
        "  organs: {kidney_right: right kidney, vertebrae: bone}}\n",
        encoding="utf-8",
    )
    words = ["train", "picture", str(config), "--pack", str(packed.folder), "--backbone", "compact"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    weights = tmp_path / "run" / file_of_picture("abdomen")
    assert 2e6 < weights.stat().st_size < 3e6
    assert main([*words, "--out", str(tmp_path / "next"), "--weights", str(weights)]) == 0
    shipped = Path(__file__).parents[3] / "configs" / "tumor-head-picture.yaml"
    assert read_config(shipped, PictureTrainingOptions).samples.shares["volumes-flair"] > 0


def test_batches_are_drawn_anew_and_repeat_with_their_seed(packed: Pack) -> None:
    task = PictureTask(OPTIONS, packed, FeatureNetwork(tiny_state()))
    one, same, other = (task.batch(np.random.default_rng(seed), 0.0) for seed in (1, 1, 2))
    assert one.images.shape == one.masks.shape == (4, 1, 64, 64)
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert one.masks.amax() > 0
    assert one.masks.amin() >= 0

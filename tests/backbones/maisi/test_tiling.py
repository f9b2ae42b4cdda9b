"""Slabs give what whole volumes give, and take the memory that was estimated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("monai.apps.generation.maisi")

from helpers.maisi_toys import tiny_autoencoder
from latentseg.backbones.maisi import memory as maisi_memory
from latentseg.backbones.maisi import tiling
from latentseg.backbones.maisi.conditions import MaisiCondition
from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
from latentseg.backbones.maisi.networks import AUTOENCODER, VARIANTS, new_autoencoder, new_unet
from latentseg.backbones.maisi.tiling import run_blocks
from latentseg.backbones.stable_diffusion import captured
from latentseg.errors import MemoryLimitError


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
@pytest.mark.parametrize("shape", [(32, 16, 8), (20, 12, 8), (4, 8, 24)])
@torch.no_grad()
def test_slabs_are_exact(rows: int, shape: tuple[int, int, int]) -> None:
    codec = tiny_autoencoder()
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    with captured([codec.encoder.blocks[i] for i in (2, 5, 8)]) as stages:
        mean = codec.encode(x)[0]
    last, kept = run_blocks(codec.encoder.blocks, x, rows=rows, keep=(2, 5, 8))
    torch.testing.assert_close(codec.quant_conv_mu(last), mean, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(kept, stages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    z = codec.post_quant_conv(mean)
    torch.testing.assert_close(
        run_blocks(codec.decoder.blocks, z, rows=rows)[0], codec.decode(mean), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_bfloat16_is_convolved_in_single_precision_where_a_processor_has_no_units_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv, x = torch.nn.Conv3d(3, 4, 3), torch.rand(1, 3, 6, 6, 6)
    exact = conv(x)
    conv, x = conv.bfloat16(), x.bfloat16()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert tiling.convolution_dtype(torch.bfloat16) == torch.float32
    found = tiling.convolved(x, conv)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_far_from_zero_the_statistics_hold() -> None:
    codec = tiny_autoencoder()
    x = 1000 + torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    ours = run_blocks(codec.encoder.blocks, x, rows=5)[0]
    torch.testing.assert_close(ours, codec.encoder(x), rtol=1e-3, atol=1e-3)


def test_another_kind_of_block_is_refused() -> None:
    with pytest.raises(TypeError, match="no slabs for Linear"):
        run_blocks(torch.nn.ModuleList([torch.nn.Linear(1, 1)]), torch.zeros(1, 1, 4, 4, 4), rows=4)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that was allocated at a time during a call."""
    run()  # what is allocated once and kept
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("dtype", "downscale"), [(torch.float32, 1), (torch.bfloat16, 1), (torch.bfloat16, 4)]
)
def test_the_estimate_is_an_upper_bound_and_not_far_off(dtype: torch.dtype, downscale: int) -> None:
    codec = new_autoencoder(AUTOENCODER | {"num_channels": [8, 16, 32], "norm_num_groups": 4})
    widths = {"num_channels": [16, 16, 32, 32], "num_head_channels": [0, 0, 16, 16], "norm_num_groups": 4}
    unet = new_unet(VARIANTS["maisi-ct-rflow"].unet | widths)
    options = MaisiOptions(dtype=dtype, rows=4, feature_downscale=downscale)
    backbone = MaisiBackbone(codec, unet, scale_factor=1.0, options=options)
    shape = (32, 64, 64)
    needs = backbone.memory(shape)
    images, latents = torch.zeros(1, 1, *shape), torch.zeros(1, 4, 8, 16, 16)
    measured = {
        "encode": peak_bytes(lambda: backbone.encode(images)),
        "features": peak_bytes(lambda: backbone.features(images)),
        "denoise": peak_bytes(lambda: backbone.denoise(latents, 500, MaisiCondition().token())),
        "decode": peak_bytes(lambda: backbone.decode(latents)),
    }
    for step, peak in measured.items():
        foreseen = getattr(needs, step) - backbone._weights
        assert peak <= foreseen <= 2.5 * peak, (step, peak, foreseen)
    assert needs.inpainting == max(needs.encode, needs.denoise, needs.decode)


def full_size(variant: str = "maisi-ct-rflow") -> MaisiBackbone:
    with torch.device("meta"):
        codec, unet = new_autoencoder(), new_unet(VARIANTS[variant].unet)
    options = MaisiOptions(dtype=torch.bfloat16, device="meta")
    return MaisiBackbone(codec, unet, scale_factor=1.0, variant=variant, options=options)


def test_full_size_fits_where_it_should() -> None:
    needs = full_size().memory((128, 256, 256))
    assert needs.inpainting < 8e9
    larger = full_size().memory((512, 512, 512))
    assert larger.decode > 6 * needs.decode


def test_the_message_says_what_would_fit() -> None:
    gib = 2**30
    with pytest.raises(MemoryLimitError) as caught:
        maisi_memory.require(16 * gib, 4 * gib, shape=(512, 512, 512), what="decoding", also=["wait"])
    assert str(caught.value) == (
        "E500 decoding 512x512x512 voxels takes about 16.0 GiB and 4.0 GiB are free. "
        "Crop to 128 slices, or resample to 1.6 times the voxel size, or wait."
    )
    with pytest.raises(MemoryLimitError) as caught:
        maisi_memory.require(16 * gib, gib, shape=(64, 512, 512), what="decoding")
    assert "Crop" not in str(caught.value)
    maisi_memory.require(gib, gib, shape=(64, 64, 64), what="decoding")

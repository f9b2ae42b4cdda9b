"""MAISI as a backbone: the protocol, inpainting, conditions, axes, times, memory."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

pytest.importorskip("monai.apps.generation.maisi")

from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

from helpers.maisi_toys import SCALE, tiny, tiny_autoencoder, tiny_unet, volumes
from latentseg.backbones.base import Backbone
from latentseg.backbones.maisi.conditions import MaisiCondition, modality_id, phrase_condition
from latentseg.backbones.maisi.model import FEATURE_BLOCKS, check_multiple, pad_volumes
from latentseg.backbones.maisi.networks import VARIANTS, SlicedAveragePool, for_inference
from latentseg.backbones.maisi.volume_flow import VolumeFlow
from latentseg.backbones.sampling import intervals
from latentseg.backbones.stable_diffusion import captured
from latentseg.errors import MemoryLimitError, UsageError
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_it_is_a_backbone(variant: str) -> None:
    backbone, images = tiny(variant), volumes(32, 64, 32, batch=2)
    assert isinstance(backbone, Backbone)
    latents = backbone.encode(images)
    assert latents.shape == (2, 4, 8, 16, 8)
    assert backbone.decode(latents).shape == images.shape
    assert backbone.decode_rgb(latents).shape == images.shape
    prediction = backbone.denoise(latents, 500, MaisiCondition().token())
    assert prediction.shape == latents.shape
    assert prediction.dtype == torch.float32
    assert not any(p.requires_grad for net in (backbone.autoencoder, backbone.unet) for p in net.parameters())


def test_features() -> None:
    backbone, images = tiny(), volumes(32, 64, 32, batch=2)
    shapes = [tuple(stage.shape[1:]) for stage in backbone.features(images)]
    assert shapes == [(4, 32, 64, 32), (8, 16, 32, 16), (12, 8, 16, 8)]
    deeper = backbone.features(images, timestep=100)
    assert [stage.shape[1] for stage in deeper] == [4, 8, 12, 8, 4, 12, 16]
    assert [stage.shape[-1] for stage in deeper] == [32, 16, 8, 8, 8, 4, 2]
    torch.testing.assert_close(deeper[4][1:], backbone.features(images[1:], timestep=100)[4])
    assert not any(module._forward_hooks for module in backbone.unet.modules())


@pytest.mark.parametrize("downscale", [2, 4])
def test_features_on_a_coarser_grid(downscale: int) -> None:
    images, pool = volumes(32, 32, 32), torch.nn.functional.avg_pool3d
    stages = tiny(feature_downscale=downscale).features(images)
    for level, (ours, fine) in enumerate(zip(stages, tiny().features(images), strict=True)):
        expected = pool(fine, max(downscale // 2**level, 1))
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"features at 1/3 of the size"):
        tiny(feature_downscale=3)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_inpainting_runs_on_it_unchanged(variant: str) -> None:
    images = volumes(32, 64, 32, batch=2)
    backbone = tiny(variant).for_volume((32, 64, 32), spacing_mm=(3.0, 0.8, 0.8))
    latents, mask = backbone.encode(images), torch.zeros_like(images)
    mask[:, :, 10, 20:30, 12] = 1
    holes = pool_mask(mask, backbone.downscale)
    options = InpaintingOptions(steps=2, resample=2, guidance=1.5)
    condition = MaisiCondition().token()
    filled = inpaint(backbone, latents, holes, condition, keys=["a", "b"], options=options)
    inside = holes.bool().expand_as(filled)
    assert torch.equal(filled[~inside], latents[~inside])
    assert bool((filled[inside] != latents[inside]).all())
    assert torch.isfinite(backbone.decode(filled)).all()
    alone = inpaint(backbone, latents[1:], holes[1:], condition, keys=["b"], options=options)
    torch.testing.assert_close(alone, filled[1:], rtol=1e-3, atol=1e-3)


def test_inside_are_ras_axes_and_zero_to_one() -> None:
    """Against the library's own calls on a volume in the orientation and range of MAISI's training."""
    backbone, lps = tiny(), volumes(32, 64, 96)
    ras = lps.permute(0, 1, 4, 3, 2).flip(2, 3)  # left and posterior become right and anterior
    codec, unet = tiny_autoencoder(), tiny_unet("maisi-ct-rflow")
    with torch.no_grad(), captured([codec.encoder.blocks[i] for i in FEATURE_BLOCKS]) as stages:
        mean = codec.encode((ras + 1) / 2)[0] * SCALE
        spacing, label = torch.tensor([[80.0, 70.0, 300.0]]), torch.tensor([1])
        velocity = unet(mean, torch.tensor([700.0]), class_labels=label, spacing_tensor=spacing)
        decoded = 2 * codec.decode(mean / SCALE) - 1

    def back(x: torch.Tensor) -> torch.Tensor:
        return x.flip(2, 3).permute(0, 1, 4, 3, 2)

    latents = backbone.encode(lps)
    torch.testing.assert_close(latents, back(mean), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.decode(latents), back(decoded), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(backbone.features(lps), stages, strict=True):
        torch.testing.assert_close(ours, back(theirs), rtol=1e-4, atol=1e-4)
    token = MaisiCondition(spacing_mm=(3.0, 0.7, 0.8)).token()
    torch.testing.assert_close(backbone.denoise(latents, 700, token), back(-velocity), rtol=1e-3, atol=1e-3)


def test_conditions_are_heard() -> None:
    latents = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    backbone, ct = tiny(), MaisiCondition().token()
    others = [MaisiCondition(modality="t1"), MaisiCondition(spacing_mm=(5.0, 1.5, 1.5))]
    plain = backbone.denoise(latents, 500, ct)
    for other in others:
        assert not torch.allclose(plain, backbone.denoise(latents, 500, other.token()), atol=1e-5)
    usual = MaisiCondition(spacing_mm=(1.5, 1.5, 1.5)).token()
    assert torch.equal(plain, backbone.denoise(latents, 500, usual))
    both = backbone.denoise(latents, 500, torch.cat([ct, others[0].token()]))
    torch.testing.assert_close(both[:1], plain[:1])
    nothing, unknown = torch.zeros(1, 1, 6), MaisiCondition(modality="unknown").token()
    assert torch.equal(backbone.denoise(latents, 500, nothing), backbone.denoise(latents, 500, unknown))


def test_only_ddpm_hears_regions() -> None:
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    head = MaisiCondition(regions=("head", "chest")).token()
    for variant, heard in (("maisi-ct-ddpm", True), ("maisi-ct-rflow", False)):
        backbone = tiny(variant)
        same = torch.equal(
            backbone.denoise(latents, 500, head), backbone.denoise(latents, 500, MaisiCondition().token())
        )
        assert same is not heard
    with_default = tiny("maisi-ct-ddpm")
    zero = with_default.denoise(latents, 500, torch.zeros(1, 1, 6))
    assert torch.equal(zero, with_default.denoise(latents, 500, MaisiCondition("unknown").token()))


def test_phrases_say_modality_and_region() -> None:
    said = phrase_condition(["CT", "abdomen", "healthy"])
    assert torch.equal(said, MaisiCondition("ct", regions=("abdomen", "abdomen")).token())
    assert torch.equal(phrase_condition(["no tumor"]), MaisiCondition("unknown").token())
    assert [modality_id(name) for name in ("CT", "mr", "t2", 31)] == [1, 8, 10, 31]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (MaisiCondition(modality="xray"), "unknown modality 'xray'.*unknown, ct"),
        (MaisiCondition(modality=128), "modality id 128"),
        (MaisiCondition(regions=("chest", "foot")), "unknown region 'foot'.*pelvis"),
        (MaisiCondition(spacing_mm=(1.0, 0.0, 1.0)), "three positive lengths"),
    ],
)
def test_bad_conditions(condition: MaisiCondition, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        condition.token()


@pytest.mark.parametrize("shape", [(16, 64, 64), (64, 64, 64), (8, 16, 8)])
def test_the_flow_is_that_of_the_published_scheduler(shape: tuple[int, ...]) -> None:
    """Times within the rounding of monai's scheduler (float16 and integers), and the same steps."""
    theirs = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    theirs.set_timesteps(30, input_img_size_numel=math.prod(shape))
    ours, plan = VolumeFlow(shape), intervals(30)
    expected = [float(t) for t in theirs.timesteps]
    assert [1000 * ours.share(t) for t, _ in plan] == pytest.approx(expected, abs=0.5)
    assert [ours.timestep(t) for t, _ in plan] == pytest.approx(expected, abs=1)
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 4, 4, 4, generator=rng).unbind(0)
    t, to = plan[10]
    time = torch.tensor([1000 * ours.share(t)])
    noised = theirs.add_noise(clean, noise, time)
    torch.testing.assert_close(ours.noised(clean, noise, t), noised)
    v = clean - noise + 0.1 * torch.randn(1, 4, 4, 4, 4, generator=rng)  # theirs points to the image
    there, image = theirs.step(v, float(time), noised, 1000 * ours.share(to))
    torch.testing.assert_close(
        ours.step(noised, -v, t, to), there, rtol=1e-3, atol=5e-3
    )  # theirs rounds times
    torch.testing.assert_close(ours.clean(noised, -v, t), image)


def test_the_published_times_of_a_large_volume() -> None:
    flow = VolumeFlow((64, 64, 64))
    listed = [1000, 983, 966, 500, 462, 421, 378, 333, 286, 235, 182, 125, 64]
    times = [1000 * flow.share(t) for t, _ in intervals(30)]
    assert [round(t) for t in times[:3] + times[20:]] == pytest.approx(listed, abs=1)
    assert all(a > b for a, b in pairwise(times))


def test_ddpm_noise_is_that_of_the_published_scheduler() -> None:
    theirs = DDPMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    schedule = tiny("maisi-ct-ddpm").schedule
    clean, noise = torch.randn(2, 1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    for t in (0.1, 0.5, 1.0):
        expected = theirs.add_noise(clean, noise, torch.tensor([schedule.timestep(t)]))
        torch.testing.assert_close(schedule.noised(clean, noise, t), expected, rtol=1e-4, atol=1e-5)


def test_a_volume_has_its_own_times_and_spacing() -> None:
    general = tiny()
    fitted = general.for_volume((128, 256, 256), spacing_mm=(2.0, 1.0, 1.0))
    assert isinstance(fitted.schedule, VolumeFlow)
    assert fitted.schedule.ratio == pytest.approx(4 ** (1 / 3))
    assert fitted.options.spacing_mm == (2.0, 1.0, 1.0)
    assert not isinstance(general.schedule, VolumeFlow)
    assert fitted.unet is general.unet


def test_bf16_returns_float_close_to_full_precision() -> None:
    images = volumes(32, 32, 32)
    half, full = tiny(dtype=torch.bfloat16), tiny()
    latents = full.encode(images)
    pairs = [
        (half.encode(images), latents),
        (half.decode(latents), full.decode(latents)),
        (half.features(images)[0], full.features(images)[0]),
        (
            half.denoise(latents, 300, MaisiCondition().token()),
            full.denoise(latents, 300, MaisiCondition().token()),
        ),
    ]
    for ours, exact in pairs:
        assert ours.dtype == torch.float32
        assert (ours - exact).abs().mean() < 0.05 * exact.abs().max()


def test_padding() -> None:
    images = volumes(30, 33, 64)
    padded, inside = pad_volumes(images)
    assert padded.shape == (1, 1, 32, 64, 64)
    assert torch.equal(padded[inside], images)
    assert bool((padded[:, :, 30:] == -1).all())
    mask, _ = pad_volumes(images > 0, value=0)
    assert int(mask.sum()) == int((images > 0).sum())
    with pytest.raises(UsageError, match=r"images of 30x33x64.*32x36x64.*multiples of 4"):
        tiny().encode(images)
    with pytest.raises(UsageError, match=r"latents of 4x8x8.*8x8x8"):
        check_multiple(torch.zeros(1, 4, 4, 8, 8), 8, what="latents")


@pytest.mark.parametrize("step", ["encode", "features", "denoise", "decode"])
def test_what_would_not_fit_is_said_before_the_start(step: str) -> None:
    backbone = tiny(memory_gib=0.001)
    shape = (4, 128, 128, 128) if step in ("denoise", "decode") else (1, 256, 256, 256)
    much = torch.empty(1, *shape, device="meta")  # would fail at once if it were touched
    arguments = (500, MaisiCondition().token()) if step == "denoise" else ()
    said = r"voxels takes about .* GiB and 0.0 GiB are free.*[Rr]esample .* compute in bfloat16"
    with pytest.raises(MemoryLimitError, match=said) as caught:
        getattr(backbone, step)(much, *arguments)
    assert ("feature_downscale" in str(caught.value)) is (step == "features")


@torch.no_grad()
def test_exchanged_layers_change_nothing() -> None:
    x = torch.randn(1, 4, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    torch.testing.assert_close(SlicedAveragePool()(x), torch.nn.functional.avg_pool3d(x, 2))
    assert torch.equal(x, before)
    for variant in VARIANTS:
        plain, lean = tiny_unet(variant), for_inference(tiny_unet(variant))
        assert list(plain.state_dict()) == list(lean.state_dict())
        pools = [type(module).__name__ for module in lean.modules()]
        assert "AvgPool3d" not in pools
        assert "Conv3d" not in pools

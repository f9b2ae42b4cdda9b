"""MAISI's configurations and checkpoints: full size on the meta device, pickles, mirrors, broken files."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("monai.apps.generation.maisi")

from helpers.maisi_toys import (
    SCALE,
    TINY_AUTOENCODER,
    TINY_UNET,
    save_published,
    tiny,
    tiny_autoencoder,
    tiny_unet,
    volumes,
)
from latentseg.backbones import download, registry
from latentseg.backbones.maisi.model import MaisiBackbone
from latentseg.backbones.maisi.networks import (
    VARIANTS,
    converted,
    find_checkpoint,
    load_networks,
    new_autoencoder,
    new_unet,
)
from latentseg.errors import ModelError

RFLOW = VARIANTS["maisi-ct-rflow"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a pulled `maisi-ct-rflow` holds, tiny; `config.json` says how tiny."""
    return published(tmp_path / "maisi", "maisi-ct-rflow")


def published(folder: Path, variant: str) -> Path:
    save_published(folder / "models", variant)
    config = {
        "_target_": "somewhere.Else",
        "autoencoder_def": TINY_AUTOENCODER | {"in_channels": "@image_channels", "_target_": "x.Y"},
        "diffusion_unet_def": TINY_UNET,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("variant", "millions"), [("maisi-ct-rflow", 180.5), ("maisi-ct-ddpm", 169.4), ("maisi-mr-brain", 180.5)]
)
def test_full_size_has_the_published_parameters_and_keys(variant: str, millions: float) -> None:
    with torch.device("meta"):
        codec, unet = new_autoencoder(), new_unet(VARIANTS[variant].unet)
    assert sum(p.numel() for p in codec.parameters()) / 1e6 == pytest.approx(20.94, abs=0.01)
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert list(codec.state_dict()) == list(tiny_autoencoder().state_dict())
    assert list(unet.state_dict()) == list(tiny_unet(variant).state_dict())


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_published_files_are_loaded(variant: str, tmp_path: Path) -> None:
    backbone = MaisiBackbone.from_folder(published(tmp_path, variant))
    assert backbone.name == variant
    assert backbone.scale_factor == pytest.approx(SCALE)
    images, same = volumes(32, 32, 32), tiny(variant)
    torch.testing.assert_close(backbone.encode(images), same.encode(images))
    latents = same.encode(images)
    condition = torch.zeros(1, 1, 6)
    torch.testing.assert_close(
        backbone.denoise(latents, 100, condition), same.denoise(latents, 100, condition)
    )


def test_pickles_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_networks(folder, "maisi-ct-rflow")
    assert sorted(path.suffix for path in (folder / "models").iterdir()) == [".pt", ".pt"] + 2 * [
        ".safetensors"
    ]
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was read again"))
    again = load_networks(folder, "maisi-ct-rflow")
    for ours, theirs in zip(first[:2], again[:2], strict=True):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name])
    for pickled in (folder / "models").glob("*.pt"):
        pickled.unlink()  # the converted files are a mirror of their own
    assert load_networks(folder, "maisi-ct-rflow")[2] == pytest.approx(SCALE)


def test_a_changed_pickle_is_converted_again(folder: Path) -> None:
    file = folder / "models" / RFLOW.autoencoder_file
    load_networks(folder, "maisi-ct-rflow")
    state = {name: tensor + 1 for name, tensor in tiny_autoencoder().state_dict().items()}
    torch.save({"unet_state_dict": state, "more": 1}, file)  # the other known layout
    name = "quant_conv_mu.conv.bias"
    assert torch.equal(load_networks(folder, "maisi-ct-rflow")[0].state_dict()[name], state[name])


def test_a_read_only_folder_is_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.is_relative_to(folder):
            raise PermissionError(13, "read-only", str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    place = converted(folder / "models" / RFLOW.unet_file)
    assert place.is_relative_to(registry.home())
    assert converted(folder / "models" / RFLOW.unet_file) == place


def test_pulled_from_a_mirror(folder: Path, tmp_path: Path) -> None:
    got = download.pull("maisi-ct-rflow", mirror=folder)
    assert registry.resolve("maisi-ct-rflow") == got
    (got / "config.json").write_text((folder / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    MaisiBackbone.from_folder(got)
    assert len(registry.verify("maisi-ct-rflow")) == 2  # the converted files beside them do no harm
    assert (
        json.loads((got / registry.LOCK_NAME).read_text(encoding="utf-8"))["license"]
        == "NVIDIA Open Model License"
    )
    (got / "models" / RFLOW.unet_file).write_bytes(b"x")
    with pytest.raises(ModelError, match=r"corrupt file.*diff_unet.*models pull maisi-ct-rflow"):
        registry.resolve("maisi-ct-rflow")


def truncated(folder: Path) -> None:
    file = folder / "models" / RFLOW.unet_file
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def with_code(folder: Path) -> None:
    with (folder / "models" / RFLOW.unet_file).open("wb") as stream:
        pickle.dump({"unet_state_dict": {}, "path": Path("x")}, stream)


def a_list(folder: Path) -> None:
    torch.save([1, 2], folder / "models" / RFLOW.unet_file)


def no_state(folder: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 1}, folder / "models" / RFLOW.unet_file)


def no_scale(folder: Path) -> None:
    state = tiny_unet("maisi-ct-rflow").state_dict()
    torch.save({"unet_state_dict": state}, folder / "models" / RFLOW.unet_file)


def zero_scale(folder: Path) -> None:
    content = {"unet_state_dict": tiny_unet("maisi-ct-rflow").state_dict(), "scale_factor": torch.tensor(0.0)}
    torch.save(content, folder / "models" / RFLOW.unet_file)


def of_ddpm(folder: Path) -> None:
    content = {"unet_state_dict": tiny_unet("maisi-ct-ddpm").state_dict(), "scale_factor": torch.tensor(1.0)}
    torch.save(content, folder / "models" / RFLOW.unet_file)


def other_keys(folder: Path) -> None:
    state = {f"module.{name}": t for name, t in tiny_autoencoder().state_dict().items()}
    torch.save(state, folder / "models" / RFLOW.autoencoder_file)


def other_width(folder: Path) -> None:
    (folder / "config.json").unlink()


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def wrong_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"autoencoder_def": {"depth": 3}}', encoding="utf-8")


def no_autoencoder(folder: Path) -> None:
    (folder / "models" / RFLOW.autoencoder_file).unlink()


def no_denoiser(folder: Path) -> None:
    (folder / "models" / RFLOW.unet_file).unlink()


def two_denoisers(folder: Path) -> None:
    save_published(folder, "maisi-ct-ddpm")


def damaged_conversion(folder: Path) -> None:
    place = find_checkpoint(folder, RFLOW.unet_file, variant="maisi-ct-rflow")
    place.write_bytes(place.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "the checkpoint cannot be read"),
        (with_code, r"the checkpoint cannot be read.*more than tensors are refused"),
        (a_list, r"no state dict in the checkpoint \(it has list\)"),
        (no_state, r"no state dict in the checkpoint \(it has model, epoch\)"),
        (no_scale, r"no usable scale_factor \(None\)"),
        (zero_scale, r"no usable scale_factor \(0.0\)"),
        (of_ddpm, r"tensors are missing, such as class_embedding.*this very variant"),
        (other_keys, r"tensors are missing, such as decoder.*published checkpoint"),
        (other_width, r"is \(4, 1, 3, 3, 3\) and should be \(64, 1, 3, 3, 3\).*config.json"),
        (bad_config, r"unreadable configuration.*config.json"),
        (wrong_config, r"does not describe.*config.json"),
        (no_autoencoder, r"no autoencoder_v1.pt.*models pull maisi-ct-rflow"),
        (no_denoiser, r"no MAISI denoiser.*diff_unet_3d_rflow-ct.pt"),
        (two_denoisers, r"the denoisers of maisi-ct-rflow and maisi-ct-ddpm.*[Nn]ame the variant"),
        (damaged_conversion, r"the weights cannot be read.*[Dd]elete this file"),
    ],
)
def test_broken_folders_are_one_sentence(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        MaisiBackbone.from_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_damaged_mirror_of_safetensors(folder: Path) -> None:
    place = find_checkpoint(folder, RFLOW.autoencoder_file, variant="maisi-ct-rflow")
    tensors = load_file(place)
    (folder / "models" / RFLOW.autoencoder_file).unlink()
    save_file({name: t for name, t in tensors.items() if "decoder" not in name}, place)
    with pytest.raises(ModelError, match="tensors are missing, such as decoder"):
        MaisiBackbone.from_folder(folder)


def test_without_monai_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['monai'] = None\n"
        "from latentseg.errors import ModelError\n"
        "try: import latentseg.backbones.maisi.model\n"
        "except ModelError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "MAISI needs packages that are not installed" in done.stdout
    assert "latentseg[maisi]" in done.stdout


def test_the_documented_example_runs(folder: Path) -> None:
    pulled = download.pull("maisi-ct-rflow", mirror=folder)
    (pulled / "config.json").write_text(
        (folder / "config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    page = (Path(__file__).parents[3] / "docs/explanation/maisi.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0].replace("steps=30", "steps=2")
    images = volumes(30, 40, 64)
    names = {"images": images, "mask": images > 0.99}
    exec(compile(example, "maisi.md", "exec"), names)  # noqa: S102 - our own page
    latents, filled = names["latents"], names["filled"]
    changed = (filled != latents).any(1, keepdim=True)
    assert torch.equal(changed[:, :, :, 10:], torch.zeros_like(changed[:, :, :, 10:]))  # padding stays
    assert names["healthy"].shape == images.shape
    assert bool(torch.isfinite(names["healthy"]).all())

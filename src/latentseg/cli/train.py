"""`latentseg train`: from scans to weights, each step resumable."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from latentseg.errors import UsageError
from latentseg.training.config import read_config

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="YAML file, see configs/.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run: checkpoint, log, loss plot, weights.")
]
Packed = Annotated[Path, typer.Option("--pack", help="Folder made by `latentseg train pack`.")]
NewPack = Annotated[Path, typer.Option("--out", "-o", help="Folder of the pack.")]
Data = Annotated[
    Path | None, typer.Option(help="Folder of the scans; default $LATENTSEG_DATA, else ../shared/data.")
]
Backbone = Annotated[str, typer.Option(help="`compact`, or the folder of a trained autoencoder.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint in the folder, if there is one.")
]


@app.callback(help="Train the compact model, from packed scans to each network.")
def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")


@app.command("pack")
def pack_scans(
    config: Config,
    out: NewPack,
    data: Data = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Pack what the split keeps for evaluation instead.")
    ] = False,
) -> None:
    """Pack scans into memory-mapped slices, once."""
    from latentseg.evaluation.datasets import data_root
    from latentseg.training.pack import Chosen, PackOptions, pack
    from latentseg.training.splits import Split

    options = read_config(config, PackOptions)
    split = read_config(config.parent / options.split, Split) if options.split else Split()
    chosen = Chosen(split, "held out" if held_out else "training")
    packed = pack(options, data=data or data_root(), folder=out, chosen=chosen)
    typer.echo(f"{len(packed.images)} slices of {len(packed.scans)} scans in {out}")


@app.command("pack-body")
def pack_body_scans(config: Config, out: NewPack, data: Data = None) -> None:
    """Pack scans for the training of the body network."""
    from latentseg.evaluation.datasets import data_root
    from latentseg.training.body.pack import BodyPackOptions, pack_body

    packed = pack_body(read_config(config, BodyPackOptions), data=data or data_root(), folder=out)
    typer.echo(f"{len(packed.scans)} scans in {out}")


@app.command()
def body(
    config: Config,
    pack: Annotated[Path, typer.Option("--pack", help="Folder made by `latentseg train pack-body`.")],
    out: Out,
    resume: Resume = False,
) -> None:
    """Train the network that tells a scan's orientation and where in the body it lies."""
    from latentseg.training.body.pack import BodyPack
    from latentseg.training.body.task import BodyOptions, BodyTask
    from latentseg.training.loop import Loop

    options = read_config(config, BodyOptions)
    Loop(BodyTask(options, BodyPack(pack)), options.loop, out).run(resume=resume)


@app.command()
def supervoxels(
    folder: Annotated[Path, typer.Argument(help="Folder made by `latentseg train pack`.")],
) -> None:
    """Compute the pseudo-labels of a pack (3-D graph segmentation)."""
    from latentseg.training.fewshot.supervoxels import add_supervoxels
    from latentseg.training.pack import Pack

    add_supervoxels(Pack(folder))


@app.command()
def autoencoder(
    config: Config,
    pack: Packed,
    out: Out,
    weights: Annotated[
        Path | None,
        typer.Option(help="An autoencoder.safetensors of this or a smaller network to start from."),
    ] = None,
    resume: Resume = False,
) -> None:
    """Train the compact autoencoder and its mask head."""
    from latentseg.training.autoencoder import AutoencoderOptions, build
    from latentseg.training.loop import Loop
    from latentseg.training.pack import Pack

    options = read_config(config, AutoencoderOptions)
    Loop(build(options, Pack(pack), weights=weights), options.loop, out).run(resume=resume)


@app.command()
def denoiser(
    config: Config,
    pack: Packed,
    backbone: Backbone,
    out: Out,
    weights: Annotated[
        Path | None, typer.Option(help="A denoiser.safetensors to start from instead of random weights.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Train the text-conditioned denoiser on the latents of a frozen compact autoencoder."""
    from latentseg.backbones.compact import CompactBackbone
    from latentseg.backbones.registry import resolve
    from latentseg.text import embed
    from latentseg.training.denoiser import DenoiserOptions, build
    from latentseg.training.loop import Loop
    from latentseg.training.pack import Pack

    options = read_config(config, DenoiserOptions)
    frozen = CompactBackbone.from_folder(resolve(backbone))
    task = build(options, Pack(pack), frozen, embed=embed, weights=weights)
    Loop(task, options.loop, out).run(resume=resume)


@app.command()
def matching(config: Config, pack: Packed, out: Out, resume: Resume = False) -> None:
    """Train the adapter of the features that the few-shot network's matching prior compares."""
    from latentseg.training.fewshot.matching import MatchingOptions, MatchingTask
    from latentseg.training.loop import Loop
    from latentseg.training.pack import Pack

    options = read_config(config, MatchingOptions)
    Loop(MatchingTask(options, Pack(pack)), options.loop, out).run(resume=resume)


@app.command()
def fewshot(
    config: Config,
    pack: Packed,
    backbone: Backbone,
    out: Out,
    weights: Annotated[
        Path | None, typer.Option(help="Few-shot weights to start from, whatever the configuration says.")
    ] = None,
    matching: Annotated[
        Path | None, typer.Option(help="The matching.safetensors of `latentseg train matching`.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Train the few-shot network on a frozen compact backbone."""
    from latentseg.backbones.compact import CompactBackbone
    from latentseg.backbones.registry import resolve
    from latentseg.training.fewshot.sdfsmis import FewShotOptions, build
    from latentseg.training.loop import Loop
    from latentseg.training.pack import Pack

    options = read_config(config, FewShotOptions)
    frozen = CompactBackbone.from_folder(resolve(backbone))
    task = build(options, Pack(pack), frozen, weights=weights, matching=matching)
    Loop(task, options.loop, out).run(resume=resume)


@app.command()
def tumor(
    config: Config,
    backbone: Annotated[str, typer.Option(help="`compact`, `maisi-ct`, or the folder of a backbone.")],
    out: Out,
    pack: Annotated[
        Path | None, typer.Option("--pack", help="Of a 2-D backbone: folder made by `latentseg train pack`.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help='A finding to leave out, such as "liver tumor", for a zero-shot evaluation.'),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Of a 2-D backbone: a tumor.safetensors to start from instead of random weights."),
    ] = None,
    device: Annotated[str, typer.Option(help="Of a 3-D backbone: auto, cuda, mps or cpu.")] = "auto",
    resume: Resume = False,
) -> None:
    """Train the tumor networks on a frozen backbone: compact on packed slices, MAISI on volumes."""
    from latentseg.backbones.layouts import layout_of
    from latentseg.backbones.registry import resolve

    folder, left_out = resolve(backbone), tuple(without or ())
    if layout_of(folder, "tumor").dims == 3:
        train_on_volumes(config, folder, out, left_out=left_out, device=device, resume=resume)
        return
    if pack is None:
        fix = "make one with `latentseg train pack` and give it with --pack"
        raise UsageError("a 2-D backbone is trained on packed slices", where="--pack", fix=fix)
    train_on_slices(config, folder, pack, out, left_out=left_out, weights=weights, resume=resume)


@app.command()
def picture(
    config: Config,
    pack: Packed,
    backbone: Backbone,
    out: Out,
    weights: Annotated[Path | None, typer.Option(help="A file of such a network to start from.")] = None,
    resume: Resume = False,
) -> None:
    """Train a network that looks for tumors in the picture alone, beside the tumor networks."""
    from latentseg.backbones.image_features import read_feature_network
    from latentseg.backbones.registry import resolve
    from latentseg.training.loop import Loop
    from latentseg.training.pack import Pack
    from latentseg.training.tumor.picture import PictureTask, PictureTrainingOptions

    options = read_config(config, PictureTrainingOptions)
    photographs = read_feature_network(resolve(backbone) / "matching.safetensors")
    task = PictureTask(options, Pack(pack), photographs, weights=weights)
    Loop(task, options.loop, out).run(resume=resume)


def train_on_slices(
    config: Path,
    folder: Path,
    pack: Path,
    out: Path,
    *,
    left_out: tuple[str, ...],
    weights: Path | None,
    resume: bool,
) -> None:
    """Train the tumor networks on a frozen compact backbone."""
    from latentseg.backbones.compact import phrase_condition
    from latentseg.methods.tumor.load import compact_stages, looked_at
    from latentseg.methods.tumor.queries import Queries
    from latentseg.text import embed
    from latentseg.training.pack import Pack
    from latentseg.training.tumor.diffugts import TumorTraining, TumorTrainingOptions

    options = read_config(config, TumorTrainingOptions)
    if left_out:
        samples = options.samples.model_copy(update={"without": left_out})
        options = options.model_copy(update={"samples": samples})
    made_for = looked_at(folder, options.network)
    metadata = {"backbone": made_for, "without": ", ".join(options.samples.without)}
    stages = compact_stages(folder, options.network)
    training = TumorTraining(options, Pack(pack), stages, Queries(embed), phrase_condition, metadata, weights)
    training.run(out, resume=resume)


def train_on_volumes(
    config: Path, folder: Path, out: Path, *, left_out: tuple[str, ...], device: str, resume: bool
) -> None:
    """Train the tumor networks on a frozen MAISI."""
    from latentseg.training.tumor.on_maisi import maisi_training
    from latentseg.training.tumor.volume_training import VolumeTrainingOptions

    options = read_config(config, VolumeTrainingOptions)
    if left_out:
        blocks = options.blocks.model_copy(update={"without": left_out})
        options = options.model_copy(update={"blocks": blocks})
    maisi_training(options, folder, device=device).run(out, resume=resume)

"""One training step in float64: loss and the gradient of every parameter, against reference tensors.

They were computed with an independent rewrite of the operator on a stock UNet. Gradients flow through the
pass of the supports. :mod:`test_naive` compares loss and gradients without these tensors.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latentseg.methods.sdfsmis.checkpoint import FewShotWeights, part

from .conftest import DEFAULT, Reference

LOSS, NORM, NOTHING = 1e-8, 1e-6, 1e-9  # of the norms relative, but for gradients that are nothing


@pytest.fixture(scope="module")
def steps() -> dict[str, Tensor]:
    path = Path(os.environ.get("LATENTSEG_PARITY", DEFAULT)) / "sdfsmis_step.safetensors"
    if not path.is_file():
        pytest.skip(f"no reference step at {path}; name its folder with LATENTSEG_PARITY")
    return load_file(path)


def stepped(weights: FewShotWeights, reference: Reference, step: dict[str, Tensor], shots: int) -> Tensor:
    """The loss of one step, its gradients in the parameters of ``weights``."""
    expected = reference.expected(shots)
    supports, query = (expected[f"{name}_unet_input"].double() for name in ("support", "query"))
    token = weights.translator(step["condition_features"])
    cache = weights.network.encode_support(supports, token, shots=shots)
    loss = nn.functional.mse_loss(exact(weights, query[:1], cache), step["mask_latents"])
    loss.backward()
    return loss.detach()


def exact(weights: FewShotWeights, query: Tensor, cache: object) -> Tensor:
    """Mask latents in the precision of the weights; the network itself answers in float32."""
    kept: list[Tensor] = []
    handle = weights.network.unet.conv_out.register_forward_hook(lambda *args: kept.append(args[2]))
    try:
        weights.network.segment(query, cache)  # type: ignore[arg-type]
    finally:
        handle.remove()
    return -kept[0]


@pytest.mark.parametrize("shots", [1, 3])
def test_a_training_step_is_exact(
    weights: FewShotWeights, reference: Reference, steps: dict[str, Tensor], shots: int
) -> None:
    own = FewShotWeights(copy.deepcopy(weights.network).double(), copy.deepcopy(weights.translator).double())
    step = part(steps, f"shots{shots}")
    assert float(stepped(own, reference, step, shots)) == pytest.approx(float(step["loss"]), abs=LOSS)
    norms, heads = part(step, "grad_norm"), part(step, "grad_head")
    parameters = named_parameters(own)
    assert parameters.keys() == norms.keys()
    for name, parameter in parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = float(norms[name])
        assert float(gradient.norm()) == pytest.approx(expected, rel=NORM, abs=NOTHING), name
        head = heads[name].flatten()
        torch.testing.assert_close(
            gradient.flatten()[: len(head)], head, rtol=1e-5, atol=NORM * expected + NOTHING
        )


def named_parameters(weights: FewShotWeights) -> dict[str, nn.Parameter]:
    """Every parameter under the name that the release gives it."""
    network = {f"unet.{n.removeprefix('unet.')}": p for n, p in weights.network.named_parameters()}
    return network | {f"vtct.{name}": p for name, p in weights.translator.named_parameters()}

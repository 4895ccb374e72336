"""CBI against its formula, written out channel by channel."""

from __future__ import annotations

import pytest
import torch

from kinet.models.cbi import CrossBranchIntegration

CHANNELS = 6


def feature_map() -> torch.Tensor:
    return torch.randn(4, CHANNELS, 5, 3)


def test_starts_as_the_identity_on_the_action_branch() -> None:
    action = feature_map()
    out = CrossBranchIntegration(CHANNELS, 2)(action, [feature_map(), feature_map()])
    torch.testing.assert_close(out, action)


@pytest.mark.parametrize("gate", ["product", "sigmoid"])
def test_equals_the_formula(gate: str) -> None:
    torch.manual_seed(1)
    cbi = CrossBranchIntegration(CHANNELS, 2, gate)  # type: ignore[arg-type]
    torch.nn.init.normal_(cbi.reduce.weight)
    for norm in cbi.norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    action, scene, human = feature_map(), feature_map(), feature_map()
    gates = []
    for norm, auxiliary in zip(cbi.norms, (scene, human), strict=True):
        product = action * (auxiliary.sigmoid() if gate == "sigmoid" else auxiliary)
        mean = product.mean(dim=(0, 2, 3), keepdim=True)
        variance = product.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        normalised = (product - mean) / torch.sqrt(variance + 1e-5)
        normalised = normalised * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        gates.append(torch.relu(action + normalised))
    concatenated = torch.cat([action, *gates], dim=1)
    expected = torch.einsum("oc,bchw->bohw", cbi.reduce.weight[:, :, 0, 0], concatenated)
    assert cbi.reduce.bias is not None
    torch.testing.assert_close(cbi(action, [scene, human]), expected + cbi.reduce.bias.view(-1, 1, 1))


def test_one_auxiliary_branch() -> None:
    cbi = CrossBranchIntegration(CHANNELS, 1)
    assert cbi.reduce.in_channels == 2 * CHANNELS
    assert cbi(feature_map(), [feature_map()]).shape == (4, CHANNELS, 5, 3)


def test_auxiliary_branches_are_told_what_helps() -> None:
    cbi = CrossBranchIntegration(CHANNELS, 2)
    torch.nn.init.normal_(cbi.reduce.weight)
    scene, human = feature_map().requires_grad_(), feature_map().requires_grad_()
    cbi(feature_map(), [scene, human]).square().mean().backward()
    for auxiliary in (scene, human):
        assert auxiliary.grad is not None
        assert auxiliary.grad.abs().sum() > 0

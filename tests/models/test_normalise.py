"""Normalisation of the network's input."""

from __future__ import annotations

import pytest
import torch

from kinet.models.normalise import normalise


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (5, 3, 7, 5), (2, 10, 6, 3), (2, 3, 1, 1)])
def test_it_is_the_formula_but_for_rounding(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, shape, generator=draw).to(dtype).contiguous(memory_format=memory_format)
    before = frames.clone()
    mean, std = (255 * torch.rand(shape[1], 1, 1, generator=draw) + 1 for _ in range(2))
    result = normalise(frames, mean, std)
    exact = (frames.double() - mean.double()) / std.double()
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, rtol=3e-7, atol=3e-7 * float((mean / std).abs().max()))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frames, before)


def test_gradients_reach_the_frames() -> None:
    frames = torch.rand(2, 3, 4, 5, requires_grad=True)
    normalise(frames, torch.zeros(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)).sum().backward()
    assert frames.grad is not None
    assert torch.equal(frames.grad, torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1).expand(2, 3, 4, 5))

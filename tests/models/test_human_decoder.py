"""Where the decoder's cells lie on the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinet.models.human_decoder import HumanDecoder, mask_side, sample_grid


def test_samples_are_bilinear_and_stop_at_the_border() -> None:
    x = torch.tensor([[0.0, 10.0], [20.0, 30.0]])[None, None]
    sampled = sample_grid(x, (3, 4), first=0.0, step=0.5)
    expected = torch.tensor([[0.0, 5, 10, 10], [10, 15, 20, 20], [20, 25, 30, 30]])
    torch.testing.assert_close(sampled[0, 0], expected)


@pytest.mark.parametrize("size", [64, 96, 176, 224])
def test_a_ramp_over_the_image_stays_in_place(size: int) -> None:
    """Cells of stride s, centred on pixel s * i as strided convolutions centre them, carry their pixel's x."""
    decoder = HumanDecoder([1, 1], [16, 32])
    decoder.smooth = nn.Identity()  # type: ignore[assignment]
    for layer, value in ((decoder.laterals[0], 0.0), (decoder.laterals[1], 1.0), (decoder.classify, 1.0)):
        nn.init.constant_(layer.weight, value)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    decoder.classify = nn.Conv2d(64, 2, 1)
    nn.init.constant_(decoder.classify.weight, 1 / 64)
    assert decoder.classify.bias is not None
    nn.init.zeros_(decoder.classify.bias)
    maps = [torch.arange(0, size, stride).float().expand(1, 1, -(-size // stride), -1) for stride in (16, 32)]
    side = mask_side(size)
    with torch.no_grad():
        logits = decoder(maps, (side, side))
    centres = 8 * torch.arange(side) + 3.5
    inside = centres <= 32 * ((size - 1) // 32)  # beyond the deepest map's last cell there is nothing to go by
    torch.testing.assert_close(logits[0, 1, 0][inside], centres[inside])


def test_strided_convolutions_centre_their_cells_so() -> None:
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 16] = 1
    strided = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
    nn.init.constant_(strided.weight, 0)
    with torch.no_grad():
        strided.weight[0, 0, 1, 1] = 1
        assert strided(strided(image))[0, 0].nonzero().tolist() == [[4, 4]]  # pixel 16 is cell 4 of stride 4

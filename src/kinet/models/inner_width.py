"""How ``inner_width`` narrows a backbone: inside its blocks only, so that blocks of any width fit together."""

from __future__ import annotations


def inner_channels(channels: int, inner_width: float) -> int:
    """``channels`` scaled by ``inner_width`` (0 < inner_width <= 1) and rounded; never fewer than 8."""
    return channels if inner_width == 1 else max(8, round(channels * inner_width))

"""A PyTorch network from elsewhere, made to look like the package's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinet.errors import InputError
from kinet.models.zoo import first_line
from kinet.teachers.teacher import Task

NAMES_OF_LOGITS = ("out", "logits")
"""Where networks that give several outputs keep their scores: torchvision's parsers, Hugging Face's networks."""

SHAPES: dict[Task, tuple[str, ...]] = {"scene": ("1", "classes"), "human": ("1", "classes", "h", "w")}
"""Of the logits for one frame."""


@dataclass(frozen=True)
class Pixels:
    """What becomes of a pixel's three colours, 0 to 255: (factor x colour - mean) / std."""

    factor: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    """Whether the network takes blue first; ``mean`` and ``std`` are in its order."""


class ForeignNet(nn.Module):
    """Logits (B, C) or (B, C, h, w) of images (B, 3, H, W) uint8 RGB.

    Args:
        model: takes (B, 3, H, W) float32 and gives logits, or a mapping that holds them as ``output`` (default: one
            of ``NAMES_OF_LOGITS``).
        task: what the logits must be: (B, C) for "scene", (B, C, h, w) for "human"; None finds out with a grey image.
        facts: plain values that change a label, beside the weights.
    """

    factor: float
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        model: nn.Module,
        pixels: Pixels,
        size: tuple[int, int],
        facts: Mapping[str, Any],
        *,
        task: Task | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model.eval()
        self.bgr, self.factor, self.output = pixels.bgr, pixels.factor, output
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)
        self.facts = {**facts, "pixels": asdict(pixels), "output": output}
        shape = self._shape(size)
        tasks = [task] if task else list(SHAPES)
        fit = [one for one in tasks if len(shape) == len(SHAPES[one]) and shape[0] == 1 and 0 not in shape]
        if not fit:
            wanted = " or ".join(f"({', '.join(SHAPES[one])})" for one in tasks)
            raise InputError(f"{name}: its output for one frame should be {wanted}, it is {shape}")
        self.task: Task = fit[0]
        self.channels = shape[1]

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        output = self.model(((x.flip(1) if self.bgr else x) * self.factor - self.mean) / self.std)
        if isinstance(output, Mapping):
            names = NAMES_OF_LOGITS if self.output is None else (self.output,)
            named = [name for name in names if name in output]
            if not named:
                raise InputError(f"{self.name}: has no output {' or '.join(names)}, but {', '.join(map(str, output))}")
            output = output[named[0]]
        if not isinstance(output, Tensor):
            raise InputError(f"{self.name}: its output is a {type(output).__name__}, not a tensor of scores")
        return output

    @torch.inference_mode()
    def _shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of the output for one grey image of this size."""
        try:
            return tuple(self(torch.full((1, 3, *size), 128, dtype=torch.uint8)).shape)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # what networks raise on an unfit input
            raise InputError(f"{self.name}: fails on an input of {(1, 3, *size)}: {first_line(error)}") from error

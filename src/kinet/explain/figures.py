"""Figures of the reports: learning curves, confusion matrices, frames with the people the network saw in them."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

INK = "#123457"  # stands for the page's text colour, light or dark: see svg()
LINES = ("#e4572e", "#3d7dd8", "#2a9d63", "#a05fc4", "#b8860b", "#12909a")
MOST_NAMED = 30  # classes whose names fit beside a confusion matrix
MOST_COUNTED = 12  # classes whose counts fit into its cells
PEOPLE = (255, 60, 200)  # the colour of a mask over a frame
GAP = 4  # pixels between the frames of a strip


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training loss and validation top-1 (per cent) by epoch, one line a run.

    ``histories``: rows of each run's log; those with the key ``epoch`` are drawn. The loss is ``loss_action`` where
    every run has it, for KINet's whole loss has more terms than TSN's; else ``loss``.
    """
    epochs = {name: [row for row in rows if "epoch" in row] for name, rows in histories.items()}
    common = all("loss_action" in row for rows in epochs.values() for row in rows)
    figure = Figure(figsize=(5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw_lines(upper, epochs, "loss_action" if common else "loss")
    _draw_lines(lower, epochs, "val_top1")
    upper.set_ylabel("training loss (action)" if common else "training loss")
    upper.set_ylim(bottom=0)
    lower.set_ylabel("validation top-1 (%)")
    lower.set_ylim(0, 100)
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = upper.legend(frameon=False, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_lines(axes: Axes, epochs: Mapping[str, Sequence[Mapping[str, float]]], key: str) -> None:
    for index, (name, rows) in enumerate(epochs.items()):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            color=LINES[index % len(LINES)],
            marker="o",
            markersize=3,
            label=name,
        )
    axes.grid(color=INK, alpha=0.15)
    _ink(axes)


def confusion_figure(confusion: NDArray[np.integer], classes: Sequence[str]) -> Figure:
    """Confusion matrix (C, C) of counts, rows the true class. Shade: the share of the true class's clips."""
    count = len(classes)
    if confusion.shape != (count, count):
        raise ValueError(f"a confusion matrix {confusion.shape} does not fit {count} classes")
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if count <= MOST_NAMED:
        size = 9 if count <= MOST_COUNTED else 6
        axes.set_xticks(range(count), classes, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), classes, fontsize=size, parse_math=False)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if count <= MOST_COUNTED:
        for true, taken in np.argwhere(confusion):
            colour = "white" if share[true, taken] > 0.5 else "#103050"
            axes.text(taken, true, str(confusion[true, taken]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xlabel("recognised as")
    axes.set_ylabel("true action")
    _ink(axes)
    return figure


def _ink(axes: Axes) -> None:
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))


def frame_strip(
    frames: NDArray[np.uint8], masks: NDArray[np.floating] | None = None, *, height: int = 192
) -> Image.Image:
    """Frames side by side, ``height`` pixels high, people tinted and outlined.

    ``frames``: (N, 3, H, W) or (N, H, W, 3) uint8 RGB. ``masks``: (N, h, w), probability 0..1 of a person, over the
    whole frame at any resolution; outlined where it crosses one half.
    """
    if frames.ndim == 4 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames {frames.shape}: not (N, 3, H, W) or (N, H, W, 3) with N > 0")
    if masks is not None and len(masks) != len(frames):
        raise ValueError(f"{len(masks)} masks for {len(frames)} frames")
    width = max(1, round(height * frames.shape[2] / frames.shape[1]))
    strip = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), (128, 128, 128))
    for index, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC)
        if masks is not None:
            image = _tint(image, masks[index])
        strip.paste(image, (index * (width + GAP), 0))
    return strip


def _tint(image: Image.Image, mask: NDArray[np.floating]) -> Image.Image:
    grey = Image.fromarray(np.round(np.clip(mask, 0, 1) * 255).astype(np.uint8)).resize(image.size)
    probability = np.asarray(grey, dtype=np.float32)[..., None] / 255
    pixels = np.array(image, dtype=np.float32)
    pixels += (np.array(PEOPLE, np.float32) - pixels) * 0.4 * probability
    inside = np.pad(probability[..., 0] >= 0.5, 1, mode="edge")
    core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    pixels[inside[1:-1, 1:-1] & ~core] = PEOPLE
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element for an HTML page: transparent, letters and ink as the page has them.

    The same figure gives the same text; it names no address outside of itself.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kinet"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has letters that matplotlib's font lacks
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # HTML knows SVG's names
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure
    for length in ("width", "height"):  # the page gives the size
        text = re.sub(rf'<svg([^>]*) {length}="[^"]*"', r"<svg\1", text, count=1)
    return text.replace(INK, "currentColor")


def data_uri(image: Image.Image) -> str:
    """The image as a JPEG in a ``data:`` address."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

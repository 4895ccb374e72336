"""The pictures of ``kinet teach check``: frames with what the teachers see in them, and a page around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kinet.data.video import open_clip
from kinet.explain.figures import frame_strip
from kinet.explain.report import STYLE
from kinet.teachers.check import Check, Seen

FRAMES = 48
"""On a sheet."""
HEIGHT = 128
"""Of a frame, in pixels."""
LINE = 13
"""Of a caption, in pixels."""
GAP = 8
WIDTH = 1600
"""Of a sheet, about."""
PAPER, INK = (255, 255, 255), (20, 20, 20)


def contact_sheet(check: Check) -> Image.Image:
    """Up to ``FRAMES`` frames in rows, with the masks drawn over them and the best scenes below.

    Of two human teachers, each frame stands twice, with the first one's mask on the left. Where two teachers are
    compared, the frames that they agree least on come first and fill half of the sheet; the rest is spread evenly
    over the sample.
    """
    tiles = [tile(check.seen[index], check, index) for index in chosen(check)]
    width, height = max(one.width for one in tiles), max(one.height for one in tiles)
    columns = max(1, min(len(tiles), WIDTH // (width + GAP)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for number, one in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(one, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def chosen(check: Check) -> list[int]:
    """Which of the frames that were seen stand on the sheet, in order."""
    every = range(len(check.seen))
    if check.agreement is None:
        return spread(every, FRAMES)
    worst = [int(index) for index in np.argsort(check.agreement, kind="stable")[: FRAMES // 2]]
    return worst + spread([index for index in every if index not in worst], FRAMES // 2)


def spread(items: Sequence[int], count: int) -> list[int]:
    """``count`` of the items at equal distances, or all of them."""
    return [items[len(items) * number // count] for number in range(count)] if len(items) > count else list(items)


def tile(frame: Seen, check: Check, index: int) -> Image.Image:
    """A frame, once for each human teacher, above its captions."""
    pixels = open_clip(frame.clip.path).read([frame.index])
    masks = [mask / 255 for mask in frame.masks.values()]
    pictures = frame_strip(
        np.repeat(pixels, max(1, len(masks)), axis=0), np.stack(masks) if masks else None, height=HEIGHT
    )
    lines = captions(frame, check, index)
    picture = Image.new("RGB", (pictures.width, HEIGHT + 2 + LINE * len(lines)), PAPER)
    picture.paste(pictures, (0, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for row, line in enumerate(lines):
        while len(line) > 1 and draw.textlength(line, font) > picture.width:
            line = line[:-2] + "…" if len(line) > 2 else line[:-1]
        draw.text((0, HEIGHT + 2 + LINE * row), line, INK, font)
    return picture


def captions(frame: Seen, check: Check, index: int) -> list[str]:
    lines = [f"{frame.clip.name} {frame.index}"]
    if check.agreement is not None and frame.masks:
        iou = check.agreement[index]
        lines.append("nobody in either" if np.isnan(iou) else f"IoU {iou:.2f}")
    for place, (classes, scores) in frame.scenes.items():
        lines.append(f"{check.teachers[place].class_names[classes[0]]} {np.exp(float(scores[0])):.0%}")
    return lines


def page(check: Check, sheet: str) -> str:
    """One HTML page around the picture ``sheet``, a path relative to it. All text is escaped."""
    result = check.result
    title = "Teachers: " + " and ".join(teacher.name for teacher in check.teachers)
    summary = f"{result['frames']} frames of {result['clips']} clips; {len(result['unreadable'])} could not be read."
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>{escape(title)}</h1><p>{escape(summary)}</p></header><main>",
        *(f'<p class="wrong" style="white-space: normal">{escape(warning)}</p>' for warning in result["warnings"]),
        *(table(figures["teacher"], figures) for figures in result["teachers"]),
        table("Agreement", result["agreement"]) if "agreement" in result else "",
        f'<section><h2>Frames</h2><img src="{escape(sheet)}" alt="contact sheet" style="max-width: 100%"></section>',
        table("Unreadable", {row["clip"]: row["cause"] for row in result["unreadable"]})
        if result["unreadable"]
        else "",
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def table(title: str, figures: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(cell(value))}</td></tr>'
        for name, value in figures.items()
        if name != "teacher"
    )
    return f'<section><h2>{escape(title)}</h2><div class="wide"><table><tbody>{rows}</tbody></table></div></section>'


def cell(value: Any) -> str:
    """A figure as text; lists of dicts, such as the most common scenes, on one line."""
    if isinstance(value, list):
        return ", ".join(" ".join(str(part) for part in one.values()) for one in value)
    return "–" if value is None else str(value)

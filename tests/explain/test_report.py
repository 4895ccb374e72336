from __future__ import annotations

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinet.errors import InputError
from kinet.explain.figures import confusion_figure, curves, frame_strip, svg
from kinet.explain.report import Guess, Report, ReportRun, ReportSample, render_report, write_report

NASTY = '<b>"wave" & $x$</b>'
VOID = {"meta", "link", "img", "path", "use", "image", "rect"}


class Page(HTMLParser):
    """Elements, their attributes and text; fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_report(text: str = NASTY) -> Report:
    rng = np.random.default_rng(0)
    history = [{"step": 3, "loss": 1.0}, {"epoch": 1, "loss": 2.0, "loss_action": 1.5, "val_top1": 40.0}]
    runs = [
        ReportRun(
            f"TSN {text}", {"top1": 50.0, "top5": 90.0, "videos": 8}, 2_000_000, 59.6, history, np.eye(2, dtype=int)
        ),
        ReportRun("KINet", {"top1": 75.0, "top5": 80.0, "videos": 8}, 4_125_000, 3725, history, np.eye(2, dtype=int)),
    ]
    frames = rng.integers(0, 256, (3, 3, 24, 32), dtype=np.uint8)
    samples = [
        ReportSample(
            name=f"clip {text}",
            frames=frames,
            truth=text,
            predictions={f"TSN {text}": Guess("jump", 0.6), "KINet": Guess(text, 0.9)},
            masks=rng.random((3, 6, 8)),
            scenes=[Guess(f"beach {text}", 0.7)],
            scene_truth=f"snow {text}",
        ),
        ReportSample("plain", frames.transpose(0, 2, 3, 1), "jump", {"KINet": Guess("jump", 1.0)}),
    ]
    return Report(
        f"title {text}", f"intro {text}", runs, [text, "jump"], samples, [f"note {text}"], [f"run {text}"], {text: text}
    )


def test_the_page_is_whole_and_stands_alone(tmp_path: Path):
    path = tmp_path / "new" / "report.html"
    write_report(path, make_report())
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.count["html"] == page.count["title"] == page.count["h1"] == 1
    assert page.count["script"] == 0
    assert page.count["svg"] == 3  # curves and two confusion matrices
    assert page.count["img"] == 2  # one strip a sample
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"https?:|@import|url\((?!#)", source)


def test_text_is_escaped_everywhere():
    source = render_report(make_report())
    page = Page(source)
    assert page.count["b"] == 0
    for start in ("title ", "intro ", "TSN ", "clip ", "beach ", "snow ", "note ", "run ", ""):
        assert start + NASTY in page.text
    assert any(name == "alt" and NASTY in value for _, name, value in page.attributes)
    assert any(name == "aria-label" and NASTY in value for _, name, value in page.attributes)


def test_results_stand_side_by_side():
    source = render_report(make_report("wave"))
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', source)
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["top-1"] == ["50.0%", "<strong>75.0%</strong>", "+25.0"]
    assert cells["top-5"] == ["<strong>90.0%</strong>", "80.0%", "−10.0"]
    assert cells["videos"] == ["8", "8", ""]
    assert cells["parameters"] == ["2.00 M", "4.12 M", ""]
    assert cells["training"] == ["60 s", "1 h 2 min", ""]
    assert source.count("✓ right") == 2
    assert source.count("✗ wrong") == 1


def test_a_report_of_one_untested_run_leaves_out_what_it_lacks():
    page = Page(render_report(Report("t", "i", [ReportRun("TSN", {}, 10, 1.0)], ["a"])))
    assert page.count["svg"] == page.count["img"] == page.count["h3"] == 0
    assert page.count["h2"] == 1
    assert "difference" not in page.text


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path, make_report())


def test_curves_draw_the_loss_that_the_runs_share():
    tsn = [{"step": 1, "loss": 9.0}] + [
        {"epoch": e, "loss": 1.0, "loss_action": 1.0, "val_top1": 10.0 * e} for e in (1, 2)
    ]
    kinet = [{"epoch": e, "loss": 5.0, "loss_action": 2.0} for e in (1, 2, 3)]
    loss, top1 = curves({"TSN": tsn, "KINet": kinet}).axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 1], [2, 1]], [[1, 2], [2, 2], [3, 2]]]
    assert top1.lines[0].get_xydata().tolist() == [[1, 10], [2, 20]]
    without = [{"epoch": 1, "loss": 1.0}]
    assert curves({"TSN": without, "KINet": kinet}).axes[0].lines[1].get_xydata().tolist() == [[1, 5], [2, 5], [3, 5]]


@pytest.mark.parametrize("classes", [2, 20, 400])
def test_confusions_of_any_size(classes: int):
    names = [f"class {index} $" for index in range(classes)]
    drawing = Page(svg(confusion_figure(np.eye(classes, dtype=np.int64) * 7, names)))
    assert drawing.count["svg"] == 1
    assert ("class 1 $" in drawing.text) == (classes <= 30)
    with pytest.raises(ValueError, match="does not fit"):
        confusion_figure(np.eye(classes + 1, dtype=np.int64), names)


def test_drawings_take_the_pages_colour_and_are_the_same_every_time():
    history = {"动作": [{"epoch": 1, "loss": 1.0, "val_top1": 5.0}]}
    drawing = svg(curves(history))
    assert drawing == svg(curves(history))
    assert "currentColor" in drawing
    assert "动作" in drawing
    assert "viewBox" in drawing[: drawing.index(">")]
    assert " width=" not in drawing[: drawing.index(">")]


def test_a_strip_tints_people_and_nothing_else():
    frames = np.full((2, 48, 64, 3), 100, np.uint8)
    masks = np.zeros((2, 12, 16))
    masks[1, 4:8, 6:10] = 1
    strip = np.asarray(frame_strip(frames, masks, height=48)).astype(int)
    assert strip.shape == (48, 2 * 64 + 4, 3)
    assert (strip[:, :64] == 100).all()
    second = strip[:, 68:]
    assert (second[20:28, 28:36] != 100).any(-1).all()
    assert (second[:8] == 100).all()
    assert (second[:, :16] == 100).all()
    plain = frame_strip(frames.transpose(0, 3, 1, 2), height=48)
    assert (np.asarray(plain)[:, :64] == 100).all()
    with pytest.raises(ValueError, match="1 masks for 2 frames"):
        frame_strip(frames, masks[:1])
    with pytest.raises(ValueError, match="not \\(N"):
        frame_strip(frames[0])


def test_images_in_the_page_open():
    source = render_report(make_report())
    images = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)"', source)
    assert len(images) == 2
    for content, width, height in images:
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (int(width), int(height))

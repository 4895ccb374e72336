"""Something-Something v2: classes are templates without their brackets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinet.data.sources.listing import Listed
from kinet.data.sources.something_v2 import read_answers, read_labels, read_split, something_v2
from kinet.errors import InputError

MakeTree = Callable[..., Path]
Write = Callable[..., Path]
LinesOf = Callable[..., list[Any]]

LABELS = [
    "Holding something next to something",
    "Moving part of something",
    "Failing to put something into something because something does not fit",
]


def entry(video: object, template: str) -> dict[str, Any]:
    return {"id": video, "label": "as written by a person", "template": template, "placeholders": ["a cup"]}


def write_lists(write: Write, folder: str, prefix: str) -> Path:
    content = {
        "labels": {label: str(number) for number, label in enumerate(LABELS)},
        "train": [
            entry("78687", "Holding [something] next to [something]"),
            entry("42326", "Moving [part] of [something]"),
            entry("7", "Failing to put [something] into [something] because [something] does not fit"),
        ],
        "validation": [entry("74225", "Holding [something] next to [something]")],
        "test": [{"id": "1420"}],
    }
    for name, value in content.items():
        path = write(f"{folder}/{prefix}{name}.json", json.dumps(value, indent=1))
    return path.parent


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_official_lists(tree: MakeTree, write: Write, prefix: str) -> None:
    lists = write_lists(write, "labels", prefix)
    folder = tree("20bn-something-something-v2", "78687.webm", "42326.mp4", "74225.webm", "1420.webm")
    listing = something_v2(folder)
    expected = {
        "train": [("78687.webm", LABELS[0]), ("42326.mp4", LABELS[1])],
        "val": [("74225.webm", LABELS[0])],
    }
    assert listing.parts == expected
    assert listing.missing == [Listed("train", "7", LABELS[2])]
    write(f"labels/{prefix}test-answers.csv", f"1420;{LABELS[1]}")
    assert something_v2(folder, lists).parts == expected | {"test": [("1420.webm", LABELS[1])]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not a list of clips"),
        ("[1]", "clip 1: has no id or no template"),
        (json.dumps([entry("1", "Moving [part] of [something]"), {"id": "2"}]), "clip 2: has no id"),
        (json.dumps([entry("../1\n", "Moving [part] of [something]")]), "clip 1: has no id"),
        (json.dumps([entry(None, "Moving [part] of [something]")]), "clip 1: has no id"),
        (json.dumps([entry("1", "Moving [parts] of [something]")]), "the nearest is 'Moving part of something'"),
    ],
)
def test_wrong_lists_are_refused(write: Write, content: str, said: str) -> None:
    path = write("train.json", content)
    with pytest.raises(InputError) as caught:
        list(read_split(path, "train", LABELS))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_wrong_labels_and_answers_are_refused(write: Write) -> None:
    for content in ("[]", "{}"):
        with pytest.raises(InputError, match="class names and numbers"):
            read_labels(write("labels.json", content))
    for line in ("1420", ";x", "1420;"):
        with pytest.raises(InputError, match=r"line 2: .*is not ID;CLASS"):
            list(read_answers(write("answers.csv", "", line), LABELS))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "template", "x"]), inner),
    max_leaves=8,
)


@given(content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_list_is_read_or_refused(lines_of: LinesOf, content: bytes) -> None:
    lines_of(content, lambda path: read_split(path, "train", LABELS))
    lines_of(content, lambda path: read_answers(path, LABELS))
    lines_of(content, read_labels)

"""HMDB51's official lists, with the names that break other readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinet.data.manifest import read_manifest
from kinet.data.sources.hmdb51 import hmdb51, read_split
from kinet.data.sources.listing import write_listing
from kinet.errors import InputError

MakeTree = Callable[..., Path]
Write = Callable[..., Path]
LinesOf = Callable[..., list[Any]]

CLAP = [
    "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
    "(500);_Days,_of_Summer!_clap_f_cm_np2_le_med_1.avi",
    "Let's clap_[x]&y=1+2@_clap_h_nm_np1_ba_bad_2.avi",
]
HUG = "Veronica_Mars_hug_u_cm_np2_ri_med_4.avi"


def test_an_official_split(tree: MakeTree, write: Write, tmp_path: Path) -> None:
    write("testTrainMulti_7030_splits/clap_test_split1.txt", *(f"{name} {use} " for use, name in enumerate(CLAP)))
    write("testTrainMulti_7030_splits/hug_test_split1.txt", f"{HUG} 1 ", "", ends="\r\n")
    write("testTrainMulti_7030_splits/hug_test_split2.txt", f"{HUG} 2 ")
    folder = tree("hmdb51_org", *(f"clap/{name}" for name in CLAP), f"hug/{HUG}")
    listing = hmdb51(folder, 1)
    assert listing.parts == {
        "train": [(f"clap/{CLAP[1]}", "clap"), (f"hug/{HUG}", "hug")],
        "test": [(f"clap/{CLAP[2]}", "clap")],
    }
    assert hmdb51(folder, 2).parts == {"test": [(f"hug/{HUG}", "hug")]}
    result = write_listing(listing, tmp_path / "split1.csv")
    assert [clip.name for clip in read_manifest(tmp_path / "split1.csv", root=folder)] == [
        f"clap/{CLAP[1]}",
        f"hug/{HUG}",
    ]
    assert [clip.name for clip in read_manifest(Path(result["test"]), root=folder)] == [f"clap/{CLAP[2]}"]


def test_a_missing_clip_and_a_missing_list(tree: MakeTree, write: Write) -> None:
    lists = write("lists/hug_test_split3.txt", f"{HUG} 1", f"{HUG.replace('4.avi', '5.avi')} 2").parent
    folder = tree("clips", HUG)
    listing = hmdb51(folder, 3, lists)
    assert listing.parts == {"train": [(HUG, "hug")]}
    assert [tuple(clip) for clip in listing.missing] == [("test", HUG.replace("4.avi", "5.avi"), "hug")]
    with pytest.raises(InputError, match=r"_test_split1.txt; .*--lists"):
        hmdb51(folder, 1, lists)


@pytest.mark.parametrize("line", ["clip.avi", "clip.avi 3", "clip.avi one", "1", "clip.avi 1 x"])
def test_a_wrong_list_is_refused_with_its_line(write: Write, line: str) -> None:
    path = write("hug_test_split1.txt", f"{HUG} 1", line)
    with pytest.raises(InputError, match=r"hug_test_split1.txt, line 2: .*0, 1 or 2"):
        list(read_split(path, "hug"))


@given(content=st.binary(max_size=80) | st.text("a.vi#;() 012\r\n\0\t\x85é", max_size=80).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_list_is_read_or_refused(lines_of: LinesOf, content: bytes) -> None:
    for clip in lines_of(content, lambda path: read_split(path, "noise")):
        assert clip.name
        assert clip.part in ("train", "test")

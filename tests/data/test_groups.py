"""Source videos by clips' names, and holding clips out by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.data.groups import find_group_rule, group_rule, hold_out
from kinet.errors import InputError

# Source videos


@pytest.mark.parametrize(
    ("rule", "name", "group"),
    [
        ("ucf101", "Archery/v_Archery_g02_c05.avi", "Archery_g02"),
        ("ucf101", "v_HandStandPushups_g25_c01", "HandStandPushups_g25"),
        ("ucf101", "Archery/Archery_g02_c05.avi", None),
        ("hmdb51", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09"),
        ("hmdb51", "sword/A_draw_sword_fight_sword_f_cm_np2_le_med_1.avi", "A_draw_sword_fight"),
        ("hmdb51", "draw_sword/KILL_BILL_draw_sword_f_cm_np2_le_med_12.avi", "KILL_BILL"),
        ("hmdb51", "(500);_Days,_of_#1!_kick_ball_l_nm_np1_ri_bad_3.mp4", "(500);_Days,_of_#1!"),
        ("hmdb51", "kick/020E3BBA", None),
        ("kinetics", "train/zumba/---QUuC4vJs_000084_000094.mp4", "---QUuC4vJs"),
        ("kinetics", "_-a_000001__000084_000094", "_-a_000001_"),
        ("kinetics", "---QUuC4vJs.mp4", None),
        (r"set\d_(seq\d+)", "hug/set1_seq02_008.avi", "seq02"),
        (r"[a-z]+_", "bend/daria_bend.avi", "daria_"),
        (r"(x)|y", "y", None),
    ],
)
def test_a_rule_finds_the_source_video(rule: str, name: str, group: str | None) -> None:
    assert group_rule(rule).group(name) == group


def test_a_rule_that_is_no_expression_is_refused() -> None:
    with pytest.raises(InputError, match="ucf101, hmdb51, kinetics"):
        group_rule("(seq")


def test_a_sets_rule_is_found_if_all_names_fit() -> None:
    ucf, kinetics = "v_Archery_g02_c05.avi", "---QUuC4vJs_000084_000094.mp4"
    for paths, name in (([ucf, ucf], "ucf101"), ([kinetics], "kinetics"), ([ucf, kinetics], None), (["a.mp4"], None)):
        rule = find_group_rule(paths)
        assert (rule and rule.name) == name


# Holding clips out


def test_hold_out_takes_its_share_of_every_class() -> None:
    rows = [(f"{label}/{index}.mp4", label) for label in ("a", "b") for index in range(10)] + [("c/0.mp4", "c")]
    kept, held = hold_out(rows, 0.3)
    assert sorted(kept + held) == sorted(rows)
    assert [label for _, label in held] == ["a"] * 3 + ["b"] * 3
    assert hold_out(rows, 0.3) == (kept, held)


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (10, 0.0), (10, 1.0), (2, 0.1)])
def test_hold_out_refuses_what_leaves_a_side_empty(count: int, share: float) -> None:
    with pytest.raises(InputError, match="hold-out"):
        hold_out([(f"{index}.mp4", "a") for index in range(count)], share)


GROUPED = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["a", "b", "a|b"])), min_size=1, max_size=40)


@given(clips=GROUPED, share=st.floats(0.05, 0.95), several=st.booleans())
def test_holding_out_parts_no_group(clips: list[tuple[int, str]], share: float, several: bool) -> None:
    rows = [(f"g{group}_{number}.mp4", label) for number, (group, label) in enumerate(clips)]
    rule = group_rule(r"g(\d)_")
    try:
        kept, held = hold_out(rows, share, rule=rule, several_labels=several)
    except InputError:
        return
    assert sorted(kept + held) == sorted(rows)
    assert hold_out(rows, share, rule=rule, several_labels=several) == (kept, held)
    assert not {rule.group(name) for name, _ in kept} & {rule.group(name) for name, _ in held}
    classes = [
        {label for _, text in part for label in (text.split("|") if several else [text])} for part in (kept, held)
    ]
    assert classes[0] >= classes[1]


def test_whole_groups_meet_the_share_nearly() -> None:
    rows = [
        (f"v_{label}_g{group:02d}_c{clip:02d}.avi", label)
        for label in ("Archery", "Biking")
        for group in range(1, 26)
        for clip in range(1, 5 + group % 4)
    ]
    _, held = hold_out(rows, 0.2, rule=group_rule("ucf101"))
    for label in ("Archery", "Biking"):
        share = sum(row[1] == label for row in held) / sum(row[1] == label for row in rows)
        assert abs(share - 0.2) < 0.04


def test_a_class_gets_its_smallest_group_rather_than_none() -> None:
    rows = [(f"big_{number}", "a") for number in range(10)] + [(f"small_{number}", "a") for number in range(6)]
    kept, held = hold_out(rows, 0.1, rule=group_rule(r"(\w+)_"))
    assert {row[0].partition("_")[0] for row in held} == {"small"}
    assert len(kept) == 10


def test_clips_that_the_rule_does_not_fit_are_groups_of_their_own() -> None:
    rows = [("g1_1", "a"), ("g1_2", "a"), ("x", "a"), ("y", "a")]
    _, held = hold_out(rows, 0.25, rule=group_rule(r"(g\d)_"))
    assert held in ([("x", "a")], [("y", "a")])
    with pytest.raises(InputError, match="fits no clip, such as x"):
        hold_out(rows[2:], 0.5, rule=group_rule(r"(g\d)_"))


def test_one_source_video_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="too few clips"):
        hold_out([("g1_1", "a"), ("g1_2", "a")], 0.5, rule=group_rule(r"(g\d)_"))


def test_clips_of_several_labels_count_for_each() -> None:
    rows = [(f"{number}", "a|b" if number % 2 else "b|c") for number in range(40)]
    kept, held = hold_out(rows, 0.25, several_labels=True)
    assert len(kept) + len(held) == 40
    counts = {label: sum(label in text for _, text in held) for label in "abc"}
    assert counts == {"a": 5, "b": 10, "c": 5}

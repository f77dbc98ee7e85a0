"""The pictures of the rules and the folders: drawn from what is there now, and with the arrows that matter."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("diagrams", ROOT / "docs" / "diagrams.py")
diagrams = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(diagrams)


def test_needs_that_follow_from_others_are_left_out():
    graph = {"c": set(), "b": {"c"}, "a": {"b", "c"}, "d": {"c"}}
    assert diagrams.reduced(graph) == {"c": set(), "b": {"c"}, "a": {"b"}, "d": {"c"}}


def test_a_box_is_above_what_it_needs_and_no_two_share_a_place():
    place = diagrams.places({"c": set(), "b": {"c"}, "a": {"b"}, "d": {"c"}})
    assert {name: row for name, (_, row) in place.items()} == {"c": 0, "b": 1, "d": 1, "a": 2}
    assert len(set(place.values())) == 4


def test_an_arrow_over_several_rows_has_a_place_of_its_own_in_each():
    """Without it the arrow from d to a would run behind b, and look like one from b."""
    graph = diagrams.bent({"c": set(), "b": {"c"}, "a": {"b", "d"}, "d": set()})
    assert graph == {"c": set(), "b": {"c"}, "a": {"b", "d 1"}, "d 1": {"d"}, "d": set()}
    place = diagrams.places(graph)
    assert place["d 1"][1] == place["b"][1] == 1
    assert place["d 1"][0] != place["b"][0]


def test_an_arrow_ends_at_the_border_of_its_box():
    assert diagrams.border((0.0, 0.0), (2.0, 2.0), (0.5, 0.25)) == (0.25, 0.25)  # through the top
    assert diagrams.border((0.0, 0.0), (-4.0, 1.0), (0.5, 0.25)) == (-0.5, 0.125)  # through the left
    assert diagrams.border((1.0, 0.0), (1.0, 3.0), (0.5, 0.25)) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("name", "graph"),
    [("house", diagrams.rooms), pytest.param("dag", diagrams.rules, marks=pytest.mark.slow)],
)
def test_the_picture_is_of_the_code(name, graph, tmp_path):
    drawn = diagrams.draw(graph(), tmp_path / f"{name}.svg").read_text()
    assert drawn == (ROOT / "docs" / f"{name}.svg").read_text(), "run `python docs/diagrams.py`"

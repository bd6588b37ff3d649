"""Tables of results: what is rendered stands in the rows."""

from benchmarks.render import wide
from benchmarks.results import Sheet


def test_a_wide_table_has_a_line_a_thing_and_leaves_open_what_it_lacks() -> None:
    made = Sheet(command="make it", device="here")
    rows = [
        made.median("A, one: forget", [1.0, 2.0, 4.0], unit="%", baseline="why"),
        made.median("A, one: time", [0.5, 0.5, 0.5], unit="s", baseline=""),
        made.median("A, two: forget", [3.0], unit="%", baseline=""),
    ]
    assert wide(rows) == [
        ("", "n", "forget, %", "time, s", "note"),
        ("A, one", "3", "2 (1 to 4)", "0.5", "why"),
        ("A, two", "1", "3", "", ""),
    ]

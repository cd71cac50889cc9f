"""Values of strangers' files as text."""

from __future__ import annotations

from mlx_colbert.untrusted import shown


def test_value_that_contains_itself_is_shown_in_short():
    value: object = ()
    for _ in range(60):
        value = (value, value)
    assert len(shown(value)) < 500


def test_long_values_are_shown_in_short():
    class Holder:
        def __repr__(self) -> str:
            raise AssertionError("the repr of an unknown type is never asked for")

    values = ["x" * 10**7, 10**100_000, ["a" * 200] * 10**5, {"k" * 10**6: "v" * 10**6}, Holder(), [Holder()]]
    assert all(len(shown(value)) < 2000 for value in values)


def test_short_values_are_shown_whole():
    assert [shown(value) for value in (None, True, 1.5, "a", [3])] == ["None", "True", "1.5", "'a'", "[3]"]

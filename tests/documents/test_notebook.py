"""Notebooks: Markdown, code and short outputs, with the number of the cell."""

import json

import pytest
from file_kinds import mixed, passages

from mlx_colbert.errors import InputError


def test_cells_and_text_outputs_are_read_and_images_are_not():
    assert mixed("study.ipynb") == [
        (
            "We count bees.\n\nn = 40 + 2\nprint(n)\n\n42\n\n## Result\n\nForty-two bees.",
            {"cell": 1, "headings": ["Study"]},
        )
    ]


def test_long_output_is_cut():
    cell = {"cell_type": "code", "source": "x", "outputs": [{"text": ["word "] * 9999}]}
    found = passages("a.ipynb", json.dumps({"cells": [cell]}))
    assert 900 < sum(len(p.text) for p in found) < 1100 and found[-1].text.endswith("…")


@pytest.mark.parametrize(
    "cell",
    [
        {"cell_type": "markdown", "source": "# \ud800\n\ntext \udc00"},
        {"cell_type": "code", "source": "x = '\udfff'", "outputs": [{"text": "\ud83d"}]},
        {"cell_type": "code", "source": "x", "outputs": [{"output_type": "error", "evalue": "\ud800"}]},
    ],
)
def test_half_a_pair_of_utf_16_is_replaced(cell):
    found = passages("a.ipynb", json.dumps({"cells": [cell]}))
    shown = "".join(f"{p.text} {p.position}" for p in found)
    assert "\ufffd" in shown
    shown.encode()


@pytest.mark.parametrize(
    "data",
    ["", "{", "[]", "{}", '{"cells": 3}', "[" * 100_000, '{"cells": [' + "[" * 100_000, "null"],
)
def test_what_is_no_notebook_is_an_input_error(data):
    with pytest.raises(InputError, match=r"a\.ipynb: is"):
        passages("a.ipynb", data)


@pytest.mark.parametrize(
    "cell",
    [
        3,
        None,
        {},
        {"source": 3},
        {"cell_type": "code", "source": ["x", 3], "outputs": 4},
        {"cell_type": "code", "source": "x", "outputs": [None, {"data": []}, {"text": {}}]},
        {"cell_type": "heading", "level": "high", "source": "Title"},
    ],
)
def test_strange_cells_do_no_harm(cell):
    passages("a.ipynb", json.dumps({"cells": [cell]}))

"""`--verbose` and `--quiet`, which every command has."""

import json
import re

import pytest

from mlx_colbert.cli import COMMANDS, main
from mlx_colbert.cli.output import note
from mlx_colbert.cli.program import parser
from mlx_colbert.progress import hidden, shown, silent
from mlx_colbert.stages import listened, stage, took


@pytest.fixture
def index(tmp_path, data, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "tea", "text": "tea is steeped"}\n')
    model = str(data / "checkpoints/pylate-bert")
    assert main(["index", str(rows), "--index", str(tmp_path / "index"), "--model", model]) == 0
    capsys.readouterr()
    return str(tmp_path / "index")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both_options(name):
    shown_help = parser([name])._subparsers._group_actions[0].choices[name].format_help()
    assert "-v, --verbose" in shown_help and "--quiet" in shown_help


def test_verbose_names_model_backend_and_stages_on_stderr_alone(index, capsys):
    assert main(["search", "tea", "--index", index, "--backend", "numpy", "--json"]) == 0
    plain = capsys.readouterr()
    assert main(["search", "tea", "--index", index, "--backend", "numpy", "--json", "-v"]) == 0
    told = capsys.readouterr()
    assert (told.out, plain.err) == (plain.out, "")
    for expected in (
        r"daemon: not used: it does not run",
        r"model: \S*pylate-bert, \d+ components",
        r"model computes with: numpy",
        r"index computes with: numpy",
        *(
            rf"{name}: [\d,.]+ ms"
            for name in ("open the index", "load the model", "encode", "search vectors")
        ),
        r"in all: [\d,.]+ ms",
    ):
        assert re.search(f"^mlx-colbert: {expected}", told.err, re.MULTILINE), expected


def test_verbose_explains_a_failure_too(capsys):
    assert main(["search", "tea", "--index", "missing", "-v"]) == 1
    assert "in all: " in capsys.readouterr().err


def test_quiet_leaves_notes_out_of_the_text_and_not_of_json(index, capsys):
    argv = ["search", "tea", "--index", index, "--filter", "year > 1"]
    assert main(argv) == 0
    whole = capsys.readouterr().out
    assert main([*argv, "--quiet"]) == 0
    quiet = capsys.readouterr().out
    assert "year" in whole and quiet == "Nothing was found.\n"
    assert main([*argv, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"]


def test_notes_and_bars_are_hidden_in_the_block_only(capsys):
    with hidden():
        note("waits")
        with shown() as progress:
            assert progress is silent
    note("goes on")
    assert capsys.readouterr().err == "goes on\n"
    with shown() as progress:
        assert progress is not silent


def test_both_options_together_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["info", "notes", "-v", "--quiet"])
    assert caught.value.code == 2


def test_stages_are_counted_where_somebody_listens():
    @stage("step")
    def step():
        return 1

    assert step() == 1
    with listened() as stages:
        step()
        step()
        took("other", 2.0)
    step()
    assert stages.times["step"][0] == 2 and stages.times["other"] == (1, 2.0)

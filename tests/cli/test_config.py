"""Settings: a flag comes before the environment, this before the file, and the file before the default."""

import json
import os

import pytest

from mlx_colbert.cli import main
from mlx_colbert.cli.program import parser
from mlx_colbert.configuration import KEYS, applied, config_path, set_key, unset_key, values
from mlx_colbert.errors import ConfigError

FILE = '# mine\nk = 3\n\nllm = "auto"  # a server\n'


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path))
    for key in KEYS.values():
        monkeypatch.delenv(key.variable, raising=False)
    return tmp_path / "config.toml"


def parsed(*argv):
    with applied():
        return parser([*argv]).parse_args(argv)


def test_precedence_is_flag_environment_file_default(path, monkeypatch):
    search = ["search", "tea", "--index", "notes"]
    assert parsed(*search).k == 10
    path.write_text("k = 3\n")
    assert parsed(*search).k == 3
    monkeypatch.setenv("MLX_COLBERT_K", "4")
    assert parsed(*search).k == 4
    assert parsed(*search, "-k", "5").k == 5


def test_values_have_origins(path, monkeypatch):
    path.write_text(FILE)
    monkeypatch.setenv("MLX_COLBERT_THREADS", "2")
    found = {name: (value.text, value.origin) for name, value in values().items()}
    assert found["k"] == ("3", "file") and found["threads"] == ("2", "environment")
    assert found["backend"] == (None, "default")


def test_environment_has_the_values_of_the_file_within_the_block_only(path):
    path.write_text('backend = "numpy"\n')
    with applied():
        assert os.environ["MLX_COLBERT_BACKEND"] == "numpy"
    assert "MLX_COLBERT_BACKEND" not in os.environ


def test_model_of_the_settings_is_enough_for_index(path):
    path.write_text('model = "some/model"\n')
    assert parsed("index", "notes.md", "--index", "notes").model == "some/model"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("k = 3\nkk = 4\n", 2, "unknown key 'kk'. Do you mean k?"),
        ("\n[daemon]\nidle = 3\n", 2, "daemon = 'a dict' is not one of true, false"),
        ("search.k = 3\n", 1, "unknown key 'search'"),
        ("k = 0\n", 1, "k = '0' is not a number of 1 or more"),
        ("# a\nk = [1]\n", 2, "k = 'a list' is not a number of 1 or more"),
        ('backend = "torch"\n', 1, "is not one of auto, mlx, numpy"),
        ("model_idle_minutes = -1\n", 1, "'-1' is not a number of minutes, or never"),
        ("model_idle_minutes = nan\n", 1, "'nan' is not a number of minutes, or never"),
        ('llm = ""\n', 1, "is not a model folder"),
        ("k = \n", 1, "is not TOML"),
    ],
)
def test_wrong_file_is_an_error_with_its_line(path, capsys, text, line, problem):
    path.write_text(text)
    assert main(["search", "tea", "--index", "notes"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"mlx-colbert: error: {path}") and f"line {line}" in shown and problem in shown


def test_wrong_variable_is_an_error(capsys, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_K", "many")
    assert main(["search", "tea", "--index", "notes"]) == 1
    assert "variable MLX_COLBERT_K: 'many' is not a number" in capsys.readouterr().err


def test_file_that_is_no_text_or_too_large_is_an_error(path):
    path.write_bytes(b"k = '\xff'\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        values()
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="too large"):
        values()


def test_set_and_unset_keep_the_other_lines(path):
    path.write_text(FILE)
    set_key("k", "7")
    assert path.read_text() == FILE.replace("3", "7")
    set_key("backend", "numpy")
    assert path.read_text() == FILE.replace("3", "7") + 'backend = "numpy"\n'
    assert unset_key("llm") and not unset_key("llm")
    assert path.read_text() == '# mine\nk = 7\n\nbackend = "numpy"\n'


@pytest.mark.parametrize("value", ['a "b" \\ c', "# no comment", "häagen", "true", "10"])
def test_written_text_is_read_again(value):
    set_key("llm", value)
    assert values()["llm"].text == value


def test_link_to_a_file_elsewhere_stays_a_link(path, tmp_path):
    (tmp_path / "dotfiles.toml").write_text("k = 3\n")
    path.symlink_to(tmp_path / "dotfiles.toml")
    set_key("k", "4")
    assert path.is_symlink() and (tmp_path / "dotfiles.toml").read_text() == "k = 4\n"


def test_value_of_several_lines_is_left_to_an_editor(path):
    text = 'llm = """a\nk = 3\n"""\n'
    path.write_text(text)
    with pytest.raises(ConfigError):
        set_key("k", "4")
    with pytest.raises(ConfigError, match=r"not TOML|several lines"):
        unset_key("llm")
    assert path.read_text() == text


def test_command_sets_lists_and_mends(path, capsys):
    assert main(["config", "set", "k", "3"]) == 0
    assert main(["config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["values"]["k"] == {"value": "3", "origin": "file"} and shown["path"] == str(config_path())
    assert main(["config"]) == 0
    assert "k " in capsys.readouterr().out
    path.write_text("k = 3\nold = 1\n")
    assert main(["config"]) == 1 and "line 2: unknown key 'old'" in capsys.readouterr().err
    assert main(["config", "unset", "old"]) == 0
    assert path.read_text() == "k = 3\n"
    assert main(["config", "unset", "k"]) == 0
    assert "Now k = 10 (default)" in capsys.readouterr().out


def test_wrong_key_or_value_is_not_written(path, capsys):
    assert main(["config", "set", "bakend", "numpy"]) == 1
    assert "Do you mean backend?\n" in capsys.readouterr().err
    assert main(["config", "set", "k", "0"]) == 1 and not path.exists()
    with pytest.raises(SystemExit):
        main(["config", "set", "k"])


def test_daemon_is_not_asked_if_the_environment_says_so(monkeypatch):
    monkeypatch.setattr("mlx_colbert.daemon.client.begin", lambda *args: pytest.fail("it was asked"))
    monkeypatch.setenv("MLX_COLBERT_DAEMON", "false")
    assert main(["search", "tea", "--index", "missing"]) == 1


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_file_that_is_none_is_not_waited_for(path, make, capsys):
    make(path)

    for words in (["config"], ["config", "set", "k", "3"], ["search", "tea"]):
        assert main(words) == 1
        assert capsys.readouterr().err.endswith("config.toml: Is not a regular file. Put one in its place.\n")

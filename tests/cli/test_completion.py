"""Shell completion, in the real shells."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mlx_colbert.cli import COMMANDS, main
from mlx_colbert.cli.completion import words_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file, a user with two collections, and the program on the path."""
    program = tmp_path / "bin" / "mlx-colbert"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_colbert "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in ("minutes", "my notes"):
        place = tmp_path / "home" / "collections" / name
        place.mkdir(parents=True)
        (place / "collection.toml").write_text("")
    here = tmp_path / "here"
    here.mkdir()
    (here / "notes.index").mkdir()
    return here


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def bash(words, folder, capsys):
    """What bash completes the last word to."""
    code = script("bash", capsys) + (
        '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mlx_colbert\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    argv = ["bash", "--norc", "-c", code, "bash", "mlx-colbert", *words]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sea"], ["search"]),
        (["com"], ["compact", "completion"]),
        (["search", "tea", "--mo"], ["--mode", "--model"]),
        (["search", "tea", "--mode", "h"], ["hybrid"]),
        (["search", "tea", "--mode", "=", "h"], ["hybrid"]),
        (["search", "tea", "--backend", ""], ["auto", "mlx", "numpy"]),
        (["daemon", "st"], ["start", "stop", "status"]),
        (["status", "mi"], ["minutes"]),
        (["status", "my"], ["my notes"]),
        (["context", "-c", ""], ["minutes", "my notes"]),
        # bash then completes files.
        (["search", "tea", "--index", "no"], []),
        (["info", "no"], []),
        (["unknown", "-"], []),
    ],
)
def test_bash_completes(folder, capsys, words, expected):
    assert bash(words, folder, capsys) == expected


def test_bash_completes_all_commands(folder, capsys):
    assert bash([""], folder, capsys) == [*COMMANDS, "--help", "--version"]


def test_interactive_bash_completes_files_and_words(folder, capsys):
    (folder / "completion").write_text(script("bash", capsys))
    typed = "source ./completion\nmlx-colbert info not\t\nmlx-colbert daem\tstatus\nexit\n"
    argv = ["bash", "--norc", "-i"]
    shown = in_terminal(argv, typed, folder)
    assert "mlx-colbert info notes.index/" in shown and "mlx-colbert daemon status" in shown


def in_terminal(argv, typed, folder):
    """What a terminal shows of an interactive shell."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, "PS1": "$ ", "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    # A read fails when the shell has ended.
    with suppress(OSError):
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    process.wait()
    return shown.decode()


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mlx-colbert sea", ["search"]),
        ("mlx-colbert search tea --mod", ["--mode", "--model"]),
        ("mlx-colbert search tea --mode h", ["hybrid"]),
        ("mlx-colbert daemon sta", ["start", "status"]),
        ("mlx-colbert status mi", ["minutes"]),
        ("mlx-colbert search tea --index no", ["notes.index/"]),
        ("mlx-colbert info no", ["notes.index/"]),
    ],
)
def test_fish_completes(folder, capsys, monkeypatch, tmp_path, line, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "completion.fish").write_text(script("fish", capsys))
    code = f"source {tmp_path}/completion.fish; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert sorted(shown.split("\t")[0] for shown in done.stdout.splitlines()) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mlx-colbert sea", "mlx-colbert search "),
        ("mlx-colbert search tea --mode h", "mlx-colbert search tea --mode hybrid "),
        ("mlx-colbert search tea --backend=nu", "mlx-colbert search tea --backend=numpy "),
        ("mlx-colbert daemon run --js", "mlx-colbert daemon run --json "),
        ("mlx-colbert status mi", "mlx-colbert status minutes "),
        ("mlx-colbert search tea --index no", "mlx-colbert search tea --index notes.index/"),
    ],
)
def test_zsh_completes(folder, capsys, tmp_path, line, expected):
    (folder / ".zshrc").write_text("")
    (tmp_path / "completion.zsh").write_text(script("zsh", capsys))
    # zsh completes in a terminal only. A widget writes the line after the completion to a file.
    setup = f"""
PS1='$ '; autoload -Uz compinit; compinit -u -D; source {tmp_path}/completion.zsh
show() {{ zle expand-or-complete; print -r -- "$BUFFER" > {tmp_path}/line; exit }}
zle -N show; bindkey '^T' show
"""
    (folder / "setup").write_text(setup)
    in_terminal(["zsh", "-f", "-i"], f"source ./setup\n{line}\x14exit\n", folder)
    assert (tmp_path / "line").read_text().rstrip("\n") == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_has_every_option_and_no_hidden_one(shell, capsys):
    text = script(shell, capsys)
    for command in COMMANDS:
        for word in words_of(command):
            for name in word.names:
                assert (name if shell != "fish" else name.lstrip("-")) in text
    assert "detached" not in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, capture_output=True)


def test_completion_without_a_shell_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["completion"])
    assert caught.value.code == 2

"""`mlx-colbert completion`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from mlx_colbert.cli import COMMANDS
from mlx_colbert.cli.render import Result

EXAMPLE = "mlx-colbert completion bash"
JSON_KEYS = '{"script"}'

Kind = Literal["none", "text", "choices", "file", "collection"]

# Names of arguments that are names of collections, and signs in the help for paths.
_COLLECTIONS = {"collection", "collections", "name", "names", "old"}
_PATHS = {"DIR", "FILE", "FOLDER", "INPUT", "PATH"}
# The command that prints the names of the collections, one a line.
_NAMES = "mlx-colbert completion --collections 2>/dev/null"


@dataclass(frozen=True)
class Word:
    """An argument of a command.

    Attributes:
        names: the names of an option, such as "-k"; none for a positional argument.
        kind: what its value is. "none": the option has no value.
        choices: its possible values.
        again: whether there may be more than one.
        help: the first part of its help.
    """

    names: tuple[str, ...]
    kind: Kind
    choices: tuple[str, ...]
    again: bool
    help: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument(
        "shell",
        nargs="?",
        choices=["bash", "zsh", "fish"],
        help='print its script. bash and zsh also read it with: eval "$(mlx-colbert completion SHELL)". '
        "For fish, write it to ~/.config/fish/completions/mlx-colbert.fish",
    )
    parser.add_argument("--collections", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> Result:
    """Make the script from the parsers of all commands."""
    if args.collections:
        from mlx_colbert.collection.registry import Registry

        return {"script": "\n".join(place.name for place in Registry().list())}
    if args.shell is None:
        args.parser.error("the following arguments are required: SHELL")
    words = {name: words_of(name) for name in COMMANDS}
    return {"script": {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words)}


def render(result: Result, args: argparse.Namespace) -> str:
    """The script."""
    script: str = result["script"]
    return script


def words_of(name: str) -> list[Word]:
    """The arguments of a command."""
    from mlx_colbert.cli.program import command_parser

    return [_word(action) for action in command_parser(name)._actions if action.help != argparse.SUPPRESS]


def _word(action: argparse.Action) -> Word:
    from mlx_colbert.cli.arguments import folder, location

    kind: Kind = "text"
    if action.nargs == 0:
        kind = "none"
    elif action.choices is not None:
        kind = "choices"
    elif action.dest in _COLLECTIONS:
        kind = "collection"
    elif action.type in (folder, location) or action.metavar in _PATHS:
        kind = "file"
    text = " ".join(str(action.help or action.metavar or "").replace("%%", "%").split())
    return Word(
        tuple(action.option_strings),
        kind,
        tuple(map(str, action.choices or ())),
        action.nargs in ("*", "+"),
        text.partition(";")[0].partition(". ")[0][:80],
    )


def _bash(words: dict[str, list[Word]]) -> str:
    """A function for bash 3.2, which macOS has, and newer. Without a word of its own, bash takes files."""
    values, options, positionals = [], [], []
    for command, found in words.items():
        names = [name for word in found for name in word.names]
        options.append(f"        {command}) words='{' '.join(names)}' ;;")
        for word in found:
            pattern = "|".join(f"'{command} {name}'" for name in word.names)
            if word.names and word.kind != "none":
                values.append(f"        {pattern}) {_bash_value(word)} ;;")
            elif not word.names:
                positionals.append(f"        {command}) {_bash_value(word)} ;;")
    first = {command: line for command, line in _firsts(positionals)}
    return "\n".join(
        [
            "# Completion of mlx-colbert for bash.",
            "_mlx_colbert() {",
            "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words=",
            "    local command=${COMP_WORDS[1]} IFS=$' \\t\\n'",
            "    COMPREPLY=()",
            "    # bash makes three words of --option=value.",
            '    if [ "$current" = = ]; then current=; fi',
            '    if [ "$previous" = = ]; then previous=${COMP_WORDS[COMP_CWORD-2]}; fi',
            '    if [ "$COMP_CWORD" = 1 ]; then',
            f"        COMPREPLY=($(compgen -W '{' '.join(words)} --help --version' -- \"$current\"))",
            "        return",
            "    fi",
            '    case "$command $previous" in',
            *values,
            "    esac",
            '    if [ "${current:0:1}" = - ]; then',
            '        case "$command" in',
            *("    " + line for line in options),
            "        esac",
            '        COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "        return",
            "    fi",
            '    case "$command" in',
            *first.values(),
            "    esac",
            "}",
            "complete -o bashdefault -o default -F _mlx_colbert mlx-colbert",
        ]
    )


def _firsts(lines: list[str]) -> list[tuple[str, str]]:
    """The lines of a case, reversed, so that a dict keeps the first of each command."""
    return [(line.partition(")")[0], line) for line in reversed(lines)]


def _bash_value(word: Word) -> str:
    if word.kind == "choices":
        return f"COMPREPLY=($(compgen -W '{' '.join(word.choices)}' -- \"$current\")); return"
    if word.kind == "collection":
        # A name may have spaces.
        return f'IFS=$\'\\n\'; COMPREPLY=($(compgen -W "$({_NAMES})" -- "$current")); return'
    return "return"


def _zsh(words: dict[str, list[Word]]) -> str:
    lines = [
        "#compdef mlx-colbert",
        "_mlx_colbert_collections() {",
        "    local -a names",
        f'    names=("${{(@f)$({_NAMES})}}")',
        "    compadd -a names",
        "}",
        "_mlx_colbert() {",
        "    local -a commands",
        "    if (( CURRENT == 2 )); then",
        "        commands=(",
        *(f"            {_zsh_quoted(f'{name}:{_zsh_text(summary)}')}" for name, summary in COMMANDS.items()),
        "        )",
        "        _describe command commands",
        "        return",
        "    fi",
        "    local command=$words[2]",
        "    shift words",
        "    (( CURRENT-- ))",
        "    case $command in",
    ]
    for command, found in words.items():
        lines += [f"        {command})", "            _arguments -S \\"]
        lines += [f"                {_zsh_word(word)} \\" for word in found]
        lines += ["                && return", "            ;;"]
    return "\n".join(
        [
            *lines,
            "    esac",
            "}",
            "# As a file of the function path, and with eval.",
            'if [ "${funcstack[1]}" = _mlx_colbert ]; then',
            '    _mlx_colbert "$@"',
            "else",
            "    compdef _mlx_colbert mlx-colbert",
            "fi",
        ]
    )


def _zsh_word(word: Word) -> str:
    value = {
        "none": "",
        "text": ":value: ",
        "choices": f":value:({' '.join(word.choices)})",
        "file": ":path:_files",
        "collection": ":collection:_mlx_colbert_collections",
    }[word.kind]
    if not word.names:
        return _zsh_quoted(f"{'*' if word.again else ''}:{value}")
    text = f"[{_zsh_text(word.help)}]"
    shown = []
    for name in word.names:
        # "+" and "=": the value may follow in the same word or in the next one.
        join = "" if word.kind == "none" else "=" if name.startswith("--") else "+"
        shown.append(_zsh_quoted(f"*{name}{join}{text}{value}"))
    return " ".join(shown)


def _zsh_text(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\[]:" else sign for sign in text)


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(words: dict[str, list[Word]]) -> str:
    lines = [
        "# Completion of mlx-colbert for fish.",
        "complete -c mlx-colbert -f",
        *(
            f"complete -c mlx-colbert -n __fish_use_subcommand -a {name} -d {_fish_quoted(summary)}"
            for name, summary in COMMANDS.items()
        ),
    ]
    for command, found in words.items():
        begin = f"complete -c mlx-colbert -n '__fish_seen_subcommand_from {command}'"
        has_positional = False
        for word in found:
            value = {
                "none": "",
                "text": " -x",
                "choices": f" -x -a {_fish_quoted(' '.join(word.choices))}",
                "file": " -r -F",
                "collection": f" -x -a '({_NAMES})'",
            }[word.kind]
            if word.names:
                names = " ".join(
                    f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in word.names
                )
                lines.append(f"{begin} {names}{value} -d {_fish_quoted(word.help)}")
            elif word.kind != "text" and not has_positional:
                has_positional = True
                lines.append(begin + value.replace(" -x", "").replace(" -r", ""))
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

"""Random settings with comments and odd spaces: only the entry changes, and all else comes back."""

from __future__ import annotations

import json
import random
import re
import tomllib

import pytest

from mlx_colbert.assistants import jsonc, toml
from mlx_colbert.assistants.formats import FormatError

KEYS = ("mcpServers", "mlx-colbert")
TABLE = ("mcp_servers", "mlx-colbert")
ENTRY = {"command": '/p y/"q"', "args": ["-P", "é", "a\\b"], "env": {"A": "b", "x.y": "\x7f"}}


def json_spaces(rng, newline):
    comments = ["/* c , } */", f' // x " {{{newline}', f"// http://a{newline}"]
    return rng.choice(["", " ", newline, f"{newline}  ", newline * 2, "\t", *comments])


def json_text(rng, depth, newline, has_commas):
    """A JSON value with comments, and perhaps commas before closing brackets."""

    def filled(item):
        return json_spaces(rng, newline) + item + json_spaces(rng, newline)

    def joined(items):
        text = ",".join(map(filled, items))
        return f"{text}," if text and has_commas and rng.random() < 0.5 else text

    kind = rng.random()
    if depth and kind < 0.5:
        keys = rng.sample(["a", "b", "mcpServers", "x y", "é\\u0041", 'q\\"{', "//"], rng.randint(0, 3))
        members = [
            f'"{key}"{json_spaces(rng, newline)}:{filled(json_text(rng, depth - 1, newline, has_commas))}'
            for key in keys
        ]
        return f"{{{joined(members)}{json_spaces(rng, newline)}}}"
    if depth and kind < 0.65:
        items = [json_text(rng, depth - 1, newline, has_commas) for _ in range(rng.randint(0, 3))]
        return f"[{joined(items)}{json_spaces(rng, newline)}]"
    return rng.choice(["1", "-2.5e3", '"s // no"', '"{\\"}"', "true", "null", '"http://x/*"'])


def plain(text):
    """The value of JSON with comments, read in another way."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|//[^\r\n]*|/\*.*?\*/|[^\s]', text, re.DOTALL)
    kept = []
    for token in tokens:
        if token.startswith(("//", "/*")):
            continue
        if token in ("}", "]") and kept[-1:] == [","]:
            kept.pop()
        kept.append(token)
    return json.loads("".join(kept))


def solid(text):
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("block", range(8))
def test_json_is_the_same_but_for_the_entry(block):
    rng = random.Random(block)
    n_tried = 0
    while n_tried < 250:
        newline, has_commas = rng.choice(["\n", "\r\n"]), rng.random() < 0.4
        spaces = json_spaces(rng, newline), json_spaces(rng, newline)
        text = spaces[0] + json_text(rng, 3, newline, has_commas) + spaces[1]
        values = plain(text)
        if not isinstance(values, dict):
            continue
        n_tried += 1
        servers = values.get("mcpServers", {})
        if not isinstance(servers, dict):
            with pytest.raises(FormatError, match="'mcpServers' is not an object"):
                jsonc.put(text, KEYS, ENTRY)
            continue

        with_entry = jsonc.put(text, KEYS, ENTRY)

        assert plain(with_entry) == {**values, "mcpServers": {**servers, "mlx-colbert": ENTRY}}, text
        assert jsonc.value(with_entry, KEYS) == ENTRY
        assert jsonc.put(with_entry, KEYS, ENTRY) == with_entry
        other = jsonc.put(with_entry, KEYS, {"command": "z"})
        assert jsonc.put(other, KEYS, ENTRY) == with_entry
        without = jsonc.remove(with_entry, KEYS, n_kept=int("mcpServers" in values))
        assert plain(without) == values, text
        # All but spaces is back, and comments are still comments.
        assert solid(without) == solid(text)
        if "\r\n" in text:
            assert not re.search("(?<!\r)\n", with_entry)


def toml_text(rng, newline):
    """A TOML text with comments, multi-line values, and tables in odd forms."""
    lines = []
    n_tables = 0
    for _ in range(rng.randint(0, 8)):
        kind = rng.randrange(7)
        n_tables += 1
        name = f"k{n_tables}"
        lines += {
            0: [""],
            1: ["# about [mcp_servers.mlx-colbert]", ""],
            2: [f"{name} = 'a # b' # c"],
            3: [f'{name} = """', "[mcp_servers.mlx-colbert]", '# no \\" comment""""'],
            4: [f"{name} = [ 1, # ]", "  [2, 'x]'],", "]"],
            5: [f"[ mcp_servers . '{name}' ]  # other", 'command = "x"', ""],
            6: [f'[{name}."a b"]', "inner . deep = { y = '}' }"],
        }[kind]
    text = newline.join(lines)
    return text + rng.choice(["", newline]) if text else ""


@pytest.mark.parametrize("block", range(4))
def test_toml_is_the_same_but_for_the_table(block):
    rng = random.Random(block)
    for _ in range(150):
        newline = rng.choice(["\n", "\r\n"])
        text = toml_text(rng, newline)
        values = tomllib.loads(text)
        servers = values.get("mcp_servers", {})

        with_entry = toml.put(text, TABLE, ENTRY)

        assert tomllib.loads(with_entry) == {**values, "mcp_servers": {**servers, "mlx-colbert": ENTRY}}
        assert with_entry.startswith(text)
        assert toml.put(with_entry, TABLE, ENTRY) == with_entry
        # The user writes something after it.
        newline = "\r\n" if "\r\n" in with_entry else "\n"
        end = f"# the last{newline}[z]{newline}a = 1{newline}"
        longer = with_entry + newline + end
        assert toml.put(toml.put(longer, TABLE, {"command": "z"}), TABLE, ENTRY) == longer
        assert toml.remove(longer, TABLE, n_kept=1).endswith(end)
        without = toml.remove(with_entry, TABLE, n_kept=1)
        assert (
            without == text
            or (without == text + newline and text and not text.endswith("\n"))
            or not text.strip()
        )
        if "\r\n" in text:
            assert not re.search("(?<!\r)\n", with_entry)

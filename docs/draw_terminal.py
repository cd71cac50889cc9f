"""Draws the picture of the README: runs commands after `make demo`, and writes what they print as an SVG.

python docs/draw_terminal.py docs/terminal.svg
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path

COMMANDS = (
    "mlx-colbert sync examples/data/notes --model demo/answerai-colbert-small-v1",
    'mlx-colbert search "why do my plants have yellow leaves" -k 2',
    'mlx-colbert search "who invented the telephone"',
)
COLUMNS = 100
LINE_HEIGHT, CHAR_WIDTH, MARGIN = 20, 8.43, 20
STYLE = "font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre"


def lines() -> list[tuple[str, str]]:
    """What the terminal shows: (class, text) of each line."""
    shown: list[tuple[str, str]] = []
    # A new collection, and none of the user's.
    home = tempfile.TemporaryDirectory()
    environment = {**os.environ, "MLX_COLBERT_HOME": home.name}
    for command in COMMANDS:
        words = shlex.split(command)
        # The program beside this Python, whether or not its environment is active.
        words[0] = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"{command}\n{done.stderr}Run `make demo` first.")
        prompt = textwrap.wrap(f"$ {command}", COLUMNS - 2, subsequent_indent="    ", break_on_hyphens=False)
        shown += [("prompt", line + (" \\" if line is not prompt[-1] else "")) for line in prompt]
        for line in done.stdout.splitlines():
            shown += [("out", part) for part in textwrap.wrap(line, COLUMNS) or [""]]
        shown.append(("out", ""))
    return shown[:-1]


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description="Draws the picture of the README.")
    parser.add_argument("target", type=Path, help="the SVG to write")
    target = parser.parse_args().target
    rows = lines()
    width = round(COLUMNS * CHAR_WIDTH + 2 * MARGIN)
    height = (len(rows) + 2) * LINE_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        "<title>mlx-colbert in a terminal: a collection is made, and a question finds its note</title>",
        f'<rect width="{width}" height="{height}" rx="10" fill="#1e2127"/>',
        *(
            f'<circle cx="{MARGIN + 20 * i}" cy="20" r="6" fill="{colour}"/>'
            for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        ),
    ]
    for number, (kind, text) in enumerate(rows):
        fill = {"prompt": "#98c379", "out": "#d7dae0"}[kind]
        y = 40 + LINE_HEIGHT * (number + 1)
        place = f'x="{MARGIN}" y="{y}" fill="{fill}" style="{STYLE}" xml:space="preserve"'
        parts.append(f"<text {place}>{escape(text)}</text>")
    target.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    print(f"{target}: {len(rows)} lines.")


if __name__ == "__main__":
    main()

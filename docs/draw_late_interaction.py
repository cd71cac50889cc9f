"""Draws the pictures of docs/late-interaction.md as SVG.

python docs/draw_late_interaction.py docs/pictures

It needs the model of `make demo`. The figures of recall and time are those of examples/bench/README.md. Each
picture has a background of its own, so that it can be read on light and on dark pages.
"""

from __future__ import annotations

import argparse
import math
import re
from html import escape
from pathlib import Path

import numpy as np

from mlx_colbert import ColBERT

ROOT = Path(__file__).resolve().parent.parent
INK, PALE, LINE, BLUE, ORANGE = "#1f2933", "#52606d", "#cbd2d9", "#1f6feb", "#c2410c"
QUESTION = "why do divers get sick when they rise"
PASSAGE = "Decompression sickness strikes divers who ascend too fast: gas bubbles form in the blood."
TABLE = "Its first 2,000 documents"
ENGINES = {
    "exact": "exact",
    "nbits-4": "4 bits",
    "nbits-4-fast": "4 bits, fast",
    "nbits-2": "2 bits",
    "nbits-1": "1 bit",
    "fast-plaid": "fast-plaid",
    "fast-plaid-fast": "fast-plaid, fast",
    "fast-plaid-faster": "fast-plaid, faster",
}


class Picture:
    """An SVG that grows by elements."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
            f' role="img"><title>{escape(title)}</title>',
            "<style>text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif }</style>",
        ]
        self.box(0, 0, width, height, fill="#ffffff", stroke=LINE, radius=10)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        stroke: str = "none",
        radius: float = 0,
        line: float = 1,
    ) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"'
            f' fill="{fill}" stroke="{stroke}" stroke-width="{line}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        fill: str = INK,
        anchor: str = "middle",
        weight: str = "normal",
        turn: float = 0,
    ) -> None:
        """A line of text. `turn` is in degrees."""
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"'
            f' font-weight="{weight}"{turned}>{escape(text)}</text>'
        )

    def line(
        self, x: float, y: float, to_x: float, to_y: float, *, stroke: str = LINE, head: bool = False
    ) -> None:
        """A line; with `head` an arrow to the right or downwards."""
        self._parts.append(
            f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{stroke}" fill="none"'
            ' stroke-width="1.5"/>'
        )
        if head:
            points = ((-8, -5), (-8, 5)) if to_x > x else ((-5, -8), (5, -8))
            ends = " ".join(f"{to_x + dx:.1f},{to_y + dy:.1f}" for dx, dy in points)
            self._parts.append(f'<polygon points="{to_x:.1f},{to_y:.1f} {ends}" fill="{stroke}"/>')

    def circle(self, x: float, y: float, radius: float, *, fill: str) -> None:
        """A filled circle."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>')

    def save(self, path: Path) -> None:
        """Writes the file."""
        path.write_text("\n".join([*self._parts, "</svg>", ""]), encoding="utf-8")
        print(path)


def draw_pipeline(target: Path) -> None:
    """One vector for a text, beside one vector for each token."""
    picture = Picture(860, 430, "Above: one vector for each text. Below: one vector for each token.")

    def vectors(x: float, y: float, count: int, colour: str) -> None:
        for number in range(count):
            for part in range(4):
                shade = "ff" if (number * 7 + part * 3) % 4 else "88"
                picture.box(x + number * 24, y + part * 9, 16, 8, fill=colour + shade, radius=1)

    def row(y: float, name: str, what: str, counts: tuple[int, int], end: str, note: str) -> None:
        picture.text(30, y - 22, name, size=16, anchor="start", weight="bold")
        picture.text(30, y - 3, what, size=13, anchor="start", fill=PALE)
        for side, (label, count, colour) in enumerate(
            (("question", counts[0], ORANGE), ("passage", counts[1], BLUE))
        ):
            top = y + 16 + side * 66
            picture.box(30, top, 110, 40, fill="#f5f7fa", stroke=LINE, radius=6)
            picture.text(85, top + 25, label)
            picture.line(140, top + 20, 176, top + 20, stroke=PALE, head=True)
            picture.box(180, top, 80, 40, fill="#eef2ff", stroke=LINE, radius=6)
            picture.text(220, top + 25, "encoder")
            picture.line(260, top + 20, 296, top + 20, stroke=PALE, head=True)
            vectors(304, top + 2, count, colour)
            picture.line(304 + count * 24 + 6, top + 20, 590, y + 69, stroke=PALE)
        picture.box(590, y + 39, 240, 60, fill="#f5f7fa", stroke=LINE, radius=6)
        picture.text(710, y + 64, end, weight="bold")
        picture.text(710, y + 84, note, size=12, fill=PALE)

    row(
        52,
        "One vector for a text",
        "All words are pressed together before question and passage meet.",
        (1, 1),
        "one comparison",
        "cosine of two vectors",
    )
    row(
        260,
        "Late interaction (ColBERT)",
        "One vector for each token. Words meet words, after both were encoded.",
        (5, 9),
        "MaxSim",
        "best match of each token, added",
    )
    picture.save(target)


def draw_maxsim(target: Path, model: ColBERT) -> None:
    """The similarities of the tokens of a real question and passage."""
    matches = model.explain(QUESTION, PASSAGE)
    similarities = np.asarray(model.encode_query(QUESTION)) @ np.asarray(model.encode_document(PASSAGE)).T
    # The passage's tokens by position: those of `explain` are only the matched ones.
    names = {match.document_position: match.document_token for match in matches}
    for position, (start, end) in enumerate(model.token_spans(PASSAGE, "document")):
        names.setdefault(position, PASSAGE[start:end])
    rows = [n for n, match in enumerate(matches) if not match.query_token.startswith("[")]
    columns = [n for n in range(similarities.shape[1]) if names.get(n, "").strip() and names[n][0] != "["]
    cell, left, top = 38, 110, 120
    picture = Picture(
        left + cell * len(columns) + 130,
        top + cell * len(rows) + 60,
        f"The similarity of each token of “{QUESTION}” with each token of “{PASSAGE}”",
    )
    picture.text(left + cell * len(columns) + 62, top - 14, "best match", weight="bold")
    for at, column in enumerate(columns):
        picture.text(left + cell * at + 24, top - 10, names[column], anchor="start", turn=-45)
    for down, row in enumerate(rows):
        y = top + cell * down
        picture.text(left - 10, y + 24, matches[row].query_token, anchor="end")
        best = max(columns, key=lambda column: similarities[row, column])
        for at, column in enumerate(columns):
            value = float(similarities[row, column])
            depth = max(0.0, min(1.0, (value - 0.3) / 0.7))
            shade = "#{:02x}{:02x}{:02x}".format(*(round(255 + (c - 255) * depth) for c in (31, 111, 235)))
            chosen = column == best
            picture.box(
                left + cell * at,
                y,
                cell - 2,
                cell - 2,
                fill=shade,
                stroke=ORANGE if chosen else "none",
                line=3,
            )
            ink = "#ffffff" if depth > 0.65 else INK
            weight = "bold" if chosen else "normal"
            picture.text(left + cell * at + 18, y + 23, f"{value:.2f}", size=11, fill=ink, weight=weight)
        picture.text(
            left + cell * len(columns) + 62,
            y + 24,
            f"{similarities[row, best]:.2f}",
            weight="bold",
            fill=ORANGE,
        )
    shown = sum(float(similarities[row, columns].max()) for row in rows)
    foot = top + cell * len(rows) + 34
    picture.text(left, foot, f"MaxSim of these {len(rows)} tokens", anchor="start")
    picture.text(left + cell * len(columns) + 62, foot, f"{shown:.2f}", weight="bold", fill=ORANGE, size=15)
    picture.save(target)


def measured() -> dict[str, tuple[float, float]]:
    """Milliseconds and recall@10 of each engine, from the table of examples/bench/README.md."""
    text = (ROOT / "examples" / "bench" / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^(\| engine .*\n)\|[-:| ]+\n((?:\|.*\n)+)", text[text.index(TABLE) :], re.MULTILINE)
    assert table is not None
    head, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in (table[1] + table[2]).splitlines()
    )
    ms, recall = head.index("ms p50"), head.index("recall@10")
    return {row[0]: (float(row[ms]), float(row[recall])) for row in rows}


def draw_recall(target: Path) -> None:
    """Recall against milliseconds."""
    points = {name: point for name, point in measured().items() if name in ENGINES}
    width, height, left, right, top, bottom = 760, 420, 80, 150, 50, 60
    picture = Picture(width, height, "Recall@10 against milliseconds for a query, 2,000 documents of MedQuAD")

    def at(ms: float, recall: float) -> tuple[float, float]:
        along = (math.log10(ms) - math.log10(5)) / (math.log10(500) - math.log10(5))
        return left + along * (width - left - right), top + (1.01 - recall) / 0.15 * (height - top - bottom)

    for ms in (5, 10, 20, 50, 100, 200, 500):
        x, _ = at(ms, 1)
        picture.line(x, top, x, height - bottom)
        picture.text(x, height - bottom + 20, str(ms), fill=PALE)
    for recall in (0.88, 0.90, 0.92, 0.94, 0.96, 0.98, 1.0):
        _, y = at(5, recall)
        picture.line(left, y, width - right, y)
        picture.text(left - 10, y + 4, f"{recall:.2f}", fill=PALE, anchor="end")
    for name, (ms, recall) in points.items():
        x, y = at(ms, recall)
        colour = ORANGE if name.startswith("fast-plaid") else BLUE
        picture.circle(x, y, 6, fill=colour)
        picture.text(x + 12, y + 5, ENGINES[name], anchor="start", fill=colour, weight="bold")
    picture.text((left + width - right) / 2, height - 14, "milliseconds for one query (median)", fill=PALE)
    picture.text(24, height / 2, "recall@10 against the exact scan", fill=PALE, turn=-90)
    picture.text(
        left, 28, "Blue: mlx-colbert. Orange: fast-plaid 1.7. Left and up is better.", anchor="start"
    )
    picture.save(target)


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description="Draws the pictures of docs/late-interaction.md.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=ROOT / "demo" / "answerai-colbert-small-v1")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    draw_pipeline(args.folder / "pipeline.svg")
    draw_maxsim(args.folder / "maxsim.svg", ColBERT.load(args.model, backend="numpy"))
    draw_recall(args.folder / "recall.svg")


if __name__ == "__main__":
    main()

"""The README is short, and links of all pages lead somewhere. What its blocks do is in test_code_blocks.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_environment_is_entered_before_the_first_command_and_program():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    entered = text.index("source .venv/bin/activate")
    assert entered < min(text.index("```python"), text.index("\nmlx-colbert "))
    assert text.index("make demo") < entered


@pytest.mark.parametrize(
    "readme",
    [
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "convert/README.md", "examples/README.md"),
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_links_and_scripts_lead_to_files(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    folder = (ROOT / readme).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (folder / target).exists(), target
    for script in re.findall(r"python ((?:examples|tests)/[\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


def test_list_of_commands_is_the_help_of_the_program():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "write_cli.py"], capture_output=True, text=True, check=True
    )
    # Later versions of argparse break lines in other places.
    exact = sys.version_info < (3, 13)
    words = [
        text if exact else sorted(set(re.findall(r"--?\w[\w-]*", text))) for text in (written, done.stdout)
    ]
    assert words[0] == words[1], "run: python docs/write_cli.py > docs/cli.md"

"""Writes the formula for Homebrew: every dependency with its version and the sha256 of its wheel.

python docs/homebrew/write_formula.py > docs/homebrew/mlx-colbert.rb

It needs uv and packaging. The wheels are those for Apple silicon, macOS 14 and the Python of the formula. pip
refuses a file with another sha256.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (3, 13)
MACOS = (14, 0)
FORMULA = """\
# `python docs/homebrew/write_formula.py > docs/homebrew/mlx-colbert.rb` writes this file. Do not edit it.
class MlxColbert < Formula
  include Language::Python::Virtualenv

  desc "{description}"
  license "{license}"
  # From the clone that this file is in.
  head "file://#{{File.expand_path("../..", __dir__)}}", using: :git, branch: "main"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@{python}"

  def install
    (buildpath/"locked.txt").write LOCKED
    virtualenv_create(libexec, "python{python}", system_site_packages: false, without_pip: false)
    pip = [libexec/"bin/python", "-m", "pip", "install", "--no-deps"]
    system(*pip, "--only-binary=:all:", "--require-hashes", "--requirement", buildpath/"locked.txt")
    system(*pip, buildpath)
    bin.install_symlink libexec/"bin/mlx-colbert"
  end

  test do
    assert_equal "mlx-colbert {version}", shell_output("#{{bin}}/mlx-colbert --version").strip
  end

  LOCKED = <<~TXT.freeze
{locked}
  TXT
end
"""


def usable() -> list[Tag]:
    """The tags of wheels that run there, the best first."""
    platforms = list(mac_platforms(MACOS, "arm64"))
    return [*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, platforms=platforms)]


def locked() -> Iterator[str]:
    """A requirement with a sha256 for each dependency of the package."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "pylock.toml")
        command = ["uv", "pip", "compile", "--quiet", "pyproject.toml", "--format", "pylock.toml"]
        command += ["--python-platform", "aarch64-apple-darwin", "--python-version", "{}.{}".format(*PYTHON)]
        environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "{}.{}".format(*MACOS)}
        subprocess.run([*command, "--output-file", target], cwd=ROOT, check=True, env=environment)
        packages: list[dict[str, Any]] = tomllib.loads(target.read_text(encoding="utf-8"))["packages"]
    ranks = {tag: number for number, tag in enumerate(usable())}
    for package in packages:
        best: list[tuple[int, str]] = []
        for wheel in package["wheels"]:
            name = wheel.get("name") or wheel["url"].rsplit("/", 1)[1]
            tags = parse_wheel_filename(name)[3]
            best += [(ranks[tag], wheel["hashes"]["sha256"]) for tag in tags if tag in ranks]
        if not best:
            sys.exit(f"{package['name']} {package['version']} has no wheel for Apple silicon.")
        yield f"{package['name']}=={package['version']} --hash=sha256:{min(best)[1]}"


def main() -> None:
    """Prints the formula."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    values: dict[str, str] = {}
    exec((ROOT / "mlx_colbert" / "_version.py").read_text(encoding="utf-8"), values)
    print(
        FORMULA.format(
            description="Search your own texts by meaning with ColBERT and MLX",
            license=project["license"],
            version=values["__version__"],
            python="{}.{}".format(*PYTHON),
            locked="\n".join(f"    {line}" for line in locked()),
        ),
        end="",
    )


if __name__ == "__main__":
    main()

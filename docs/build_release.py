"""Builds the wheel and the sdist of a release into dist/, from the last commit.

python docs/build_release.py https://github.com/OWNER/mlx-colbert

The package index shows the README without the files beside it. So its links become addresses of the files at
the tag of this version, and the metadata name the repository.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# An image, or the end of a link, to a file of the repository.
LINK = re.compile(r"(!\[[^]]*)?\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def with_addresses(readme: str, repository: str, tag: str) -> str:
    """The text of a README with absolute links.

    >>> print(with_addresses("![A](a.svg) [b](docs/b.md#c)", "https://git.example/me/it", "v1"))
    ![A](https://git.example/me/it/raw/v1/a.svg) [b](https://git.example/me/it/blob/v1/docs/b.md#c)
    """

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1] or ''}]({repository}/{kind}/{tag}/{found[2]})"

    return LINK.sub(absolute, readme)


def prepare(folder: Path, repository: str) -> str:
    """Writes the addresses into the README and the pyproject.toml of a folder; returns the version."""
    program = (folder / "mlx_colbert" / "_version.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'__version__ = "(.+)"', program)
    readme = folder / "README.md"
    text = with_addresses(readme.read_text(encoding="utf-8"), repository, f"v{version}")
    readme.write_text(text, encoding="utf-8")
    pyproject = folder / "pyproject.toml"
    settings = pyproject.read_text(encoding="utf-8")
    if "urls" in tomllib.loads(settings)["project"]:
        sys.exit("pyproject.toml: has project.urls already. Remove them: the repository is an argument here.")
    settings += f"""
[project.urls]
Source = "{repository}"
Documentation = "{repository}/tree/v{version}/docs"
Changelog = "{repository}/blob/v{version}/CHANGELOG.md"
Issues = "{repository}/issues"
"""
    pyproject.write_text(settings, encoding="utf-8")
    return version


def main(repository: str) -> None:
    """Builds and checks both files. It needs build and twine."""
    if not re.fullmatch(r"https://[^/\s]+(/[^/\s]+)+", repository):
        sys.exit(f"{repository}: is no address of a repository. Give one such as https://HOST/OWNER/NAME.")
    committed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(committed)) as archive:
            archive.extractall(folder, filter="data")
        version = prepare(Path(folder), repository)
        command = [sys.executable, "-m", "build", "--outdir", str(ROOT / "dist"), folder]
        if subprocess.run(command).returncode:
            sys.exit("The release was not built.")
    built = sorted(map(str, (ROOT / "dist").glob(f"mlx_colbert-{version}[-.]*")))
    sys.exit(subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built]).returncode)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1].rstrip("/"))

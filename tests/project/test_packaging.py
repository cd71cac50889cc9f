"""The wheel and the sdist have the package, convert/ in its place, and nothing else."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from mlx_colbert import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def clean_copy(target: Path) -> Path:
    """A copy of the files that git does not ignore: it has no build/ of an older version, and leaves none."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    for name in filter(None, listed.stdout.split("\0")):
        # The wheel has no test, example or page. A file may be deleted, but not yet committed.
        if not name.startswith(("tests/", "examples/", "docs/")) and (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def wheel_of(source: Path, folder: Path) -> dict[str, bytes]:
    """The files of the wheel that pip builds from a folder or an sdist."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return clean_copy(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel):
    return set(wheel)


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.tar.gz")
    return path


def test_wheel_holds_every_source_file(names):
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "mlx_colbert").rglob("*.py")}
    expected |= {f"mlx_colbert/{path.relative_to(ROOT)}" for path in (ROOT / "convert").rglob("*.py")}
    web = ROOT / "mlx_colbert" / "server" / "web"
    expected |= {str(path.relative_to(ROOT)) for path in web.rglob("*") if path.is_file()}
    expected |= {
        "mlx_colbert/py.typed",
        "mlx_colbert/index/FORMAT.md",
        "mlx_colbert/index/storage/codebooks.npy",
        "mlx_colbert/convert/README.md",
        "mlx_colbert/convert/golden.json",
        "mlx_colbert/mcp/hits.html",
    }
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_sdist_makes_the_same_wheel(sdist, wheel, tmp_path):
    again = wheel_of(sdist, tmp_path)

    # RECORD is a list of the others' hashes, in the order in which they were written.
    assert {name: content for name, content in again.items() if not name.endswith("/RECORD")} == {
        name: content for name, content in wheel.items() if not name.endswith("/RECORD")
    }


def test_sdist_has_no_test_example_or_cache(sdist):
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}

    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= inside
    tops = {name.partition("/")[0] for name in inside if "/" in name}
    assert tops == {"convert", "mlx_colbert", "mlx_colbert.egg-info"}
    assert not [name for name in inside if "__pycache__" in name or name.endswith(".pyc")]


def test_metadata_is_what_the_package_index_accepts(wheel):
    (metadata_file,) = [name for name in wheel if name.endswith(".dist-info/METADATA")]

    metadata = Metadata.from_email(wheel[metadata_file], validate=True)

    assert (metadata.name, str(metadata.version)) == ("mlx-colbert", __version__)
    assert metadata.license_expression == "MIT"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata_file.replace("METADATA", "licenses/LICENSE") in wheel
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(metadata.provides_extra) == set(project["optional-dependencies"])
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in metadata.classifiers


def test_release_names_the_repository_and_its_readme_has_no_link_to_a_file_beside_it(source, tmp_path):
    """The package index has no file beside the README."""
    spec = importlib.util.spec_from_file_location("build_release", ROOT / "docs" / "build_release.py")
    build_release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_release)
    folder = shutil.copytree(source, tmp_path / "copy")
    here = "https://git.example/team/mlx-colbert"

    assert build_release.prepare(folder, here) == __version__

    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Source"] == here
    assert all(
        address.startswith(f"{here}/") for name, address in project["urls"].items() if name != "Source"
    )
    readme = (folder / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)]*)\)", readme))
    assert f"{here}/raw/v{__version__}/docs/terminal.svg" in targets
    assert f"{here}/blob/v{__version__}/convert/README.md#parity" in targets
    assert not [target for target in targets if not target.startswith("https://")]
    # Without the addresses, it is the same text.
    for kind in ("raw", "blob"):
        readme = readme.replace(f"{here}/{kind}/v{__version__}/", "")
    assert readme == (ROOT / "README.md").read_text(encoding="utf-8")


def test_formula_has_the_version_and_every_dependency():
    """`python docs/homebrew/write_formula.py > docs/homebrew/mlx-colbert.rb` brings it up to date."""
    formula = (ROOT / "docs" / "homebrew" / "mlx-colbert.rb").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^ +([\w-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$", formula, re.MULTILINE))

    assert f'"mlx-colbert {__version__}"' in formula
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(locked[requirement.name]), requirement


def test_only_top_level_name_is_the_package(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mlx_colbert"}


def test_convert_cannot_be_imported_from_the_repository_by_its_folder_name():
    done = subprocess.run([sys.executable, "-c", "import convert"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "mlx_colbert.convert" in done.stderr

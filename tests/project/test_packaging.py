"""The wheel holds the package, convert/ in its place, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(clean_copy(tmp_path_factory.mktemp("source"))),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


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
    }
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_only_top_level_name_is_the_package(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mlx_colbert"}


def test_convert_cannot_be_imported_from_the_repository_by_its_folder_name():
    done = subprocess.run([sys.executable, "-c", "import convert"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "mlx_colbert.convert" in done.stderr

"""PDF: paragraphs, headings and pages, and that no file ends the program."""

import subprocess
import sys

import pytest
from file_kinds import MIXED, mixed, passages

from mlx_colbert.documents.kinds import kind_of, pdf_process
from mlx_colbert.errors import InputError, MissingExtraError

pytest.importorskip("pypdfium2")


def test_pages_are_read_without_what_repeats_on_them():
    assert mixed("weather.pdf") == [
        (
            "Cumulus clouds are white and flat at the bottom. They grow on sunny days.\n\nStratus is a grey layer.",
            {"page": 1, "headings": ["Weather", "Clouds"]},
        ),
        ("Rain falls from nimbostratus for hours.", {"page": 2, "headings": ["Weather", "Rain"]}),
        ("Hail needs strong updrafts.", {"page": 3, "headings": ["Weather", "Rain"]}),
    ]


def test_large_letters_are_headings_if_there_is_no_outline():
    data = (MIXED / "weather.pdf").read_bytes().replace(b"/Outlines 4", b"/Nothing 4")
    found = [passage.position.get("headings") for passage in passages("a.pdf", data)]
    assert found == [["Weather", "1 Clouds"], ["Weather", "2 Rain"], ["Weather", "2 Rain"]]


def test_pages_without_text_are_said_to_have_none():
    with pytest.raises(InputError, match=r"scan\.pdf: has no text, only images"):
        mixed("scan.pdf")


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4", b"no pdf"])
def test_damaged_file_is_an_input_error(data):
    with pytest.raises(InputError, match=r"a\.pdf: is damaged: .*[^.]\. It is not read\.$"):
        passages("a.pdf", data)


def test_any_cut_or_changed_file_is_read_or_refused():
    data = (MIXED / "weather.pdf").read_bytes()
    for place in range(0, len(data), 29):
        for broken in (data[:place], data[:place] + b"\x7f" + data[place + 1 :]):
            try:
                passages("a.pdf", broken)
            except InputError as error:
                assert str(error).startswith("a.pdf: ")


def test_reader_that_crashes_costs_one_file(monkeypatch):
    monkeypatch.setattr(pdf_process, "_process", None)
    monkeypatch.setattr(pdf_process, "_MODULE", "antigravity_is_missing")
    with pytest.raises(InputError, match="the PDF reader ended"):
        mixed("weather.pdf")
    monkeypatch.undo()
    assert len(mixed("weather.pdf")) == 3


def test_reader_that_hangs_is_ended(monkeypatch, tmp_path):
    (tmp_path / "sleeper.py").write_text("import sys\nsys.stdin.buffer.read()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pdf_process, "_process", None)
    monkeypatch.setattr(pdf_process, "_MODULE", "sleeper")
    monkeypatch.setattr(pdf_process, "MAX_SECONDS", 0.5)
    with pytest.raises(InputError, match="takes longer than"):
        mixed("weather.pdf")


def test_reader_runs_no_module_of_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text(
        "import pathlib\npathlib.Path('was-run').touch()\nfrom json_ import *\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pdf_process, "_process", None)
    assert len(passages("a.pdf", (MIXED / "weather.pdf").read_bytes())) == 3
    pdf_process._stop(pdf_process._process)
    assert not (tmp_path / "was-run").exists()


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlx-colbert\[files\]'") as caught:
        mixed("weather.pdf")
    assert caught.value.extra == kind_of("a.pdf").extra == "files"


def test_pdfium_is_not_loaded_into_the_program():
    code = (
        "import sys; from mlx_colbert.documents.files import read_passages;"
        f"list(read_passages({str(MIXED / 'weather.pdf')!r})); print('pypdfium2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

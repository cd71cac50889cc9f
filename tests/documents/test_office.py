"""DOCX, PPTX and EPUB: what is read, and that no file does harm."""

import io
import re
import zipfile

import pytest
from file_kinds import MIXED, mixed, passages

from mlx_colbert.documents import archive
from mlx_colbert.errors import InputError


def changed(name, member, content):
    """The bytes of a file of tests/data/mixed, with another content of one of its files."""
    out = io.BytesIO()
    with zipfile.ZipFile(MIXED / name) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == member else old.read(entry))
    return out.getvalue()


def test_word_document_is_read():
    assert mixed("bees.docx") == [
        (
            "A hive has one queen.\n\nIt hums softly.\n\nTools\n\n- smoker\n- veil\n\n"
            "month | work\nMay | swarms\nAugust | honey\n\nSeen in 2023.",
            {"headings": ["Bees", "Hives"]},
        )
    ]


def test_slides_are_read_in_the_order_of_the_presentation():
    assert mixed("garden.pptx") == [
        (
            "Feed it with compost.\nWater it.\n\nNotes\n\nShow the worms.",
            {"slide": 1, "headings": ["The garden", "Soil"]},
        ),
        ("Sow in April.", {"slide": 2, "headings": ["The garden", "Seeds"]}),
    ]


def test_book_is_read_in_the_order_of_its_spine():
    assert mixed("voyage.epub") == [
        (
            "Departure\n\nWe sailed at dawn.\n\nStorm\n\nThe wind rose & the mast broke.",
            {"headings": ["The Voyage"]},
        )
    ]


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.epub"])
@pytest.mark.parametrize("data", [b"", b"PK\3\4 no zip file", b"\xd0\xcf\x11\xe0 encrypted by Office"])
def test_damaged_file_is_an_input_error(name, data):
    with pytest.raises(InputError, match=rf"{name}: is damaged"):
        passages(name, data)


@pytest.mark.parametrize("name", ["bees.docx", "garden.pptx", "voyage.epub"])
def test_any_cut_or_changed_file_is_read_or_refused(name):
    data = (MIXED / name).read_bytes()
    for place in range(0, len(data), 7):
        for broken in (data[:place], data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]):
            try:
                passages(name, broken)
            except InputError as error:
                assert str(error).startswith(f"{name}: ")


def test_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED", 1 << 20)
    data = changed("bees.docx", "word/document.xml", b" " * (2 << 20))
    with pytest.raises(InputError, match="is more than 1,048,576 bytes when it is unpacked"):
        passages("a.docx", data)


def test_too_many_files_inside_are_refused(monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(InputError, match="files inside"):
        passages("a.docx", (MIXED / "bees.docx").read_bytes())


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'


@pytest.mark.parametrize("content", [BOMB, OUTSIDE])
def test_entities_are_refused(content):
    with pytest.raises(InputError, match="declares XML entities"):
        passages("a.docx", changed("bees.docx", "word/document.xml", content))


@pytest.mark.parametrize("n_levels", [900, 100_000])
def test_depth_does_no_harm(n_levels):
    inner = "<w:sdt>" * n_levels + "</w:sdt>" * n_levels
    data = changed("bees.docx", "word/document.xml", f'<w:d xmlns:w="x"><w:body>{inner}</w:body></w:d>')
    if n_levels > archive.MAX_DEPTH:
        with pytest.raises(InputError, match="levels deep"):
            passages("a.docx", data)
    else:
        assert [p.text for p in passages("a.docx", data)] == ["Seen in 2023."]


def test_encrypted_zip_file_is_refused():
    data = (MIXED / "voyage.epub").read_bytes()
    # The flag of encryption in the headers of all files inside.
    for header in (b"PK\3\4..", b"PK\1\2...."):
        data = re.sub(b"(%s)\0" % header, lambda found: found[1] + b"\1", data, flags=re.DOTALL)
    with pytest.raises(InputError, match="is encrypted"):
        passages("a.epub", data)


def test_names_inside_lead_nowhere():
    assert archive.joined_path("word/document.xml", "../../../etc/passwd") == "etc/passwd"
    assert archive.joined_path("OEBPS/book.opf", "/text/a.xhtml") == "text/a.xhtml"


def test_bomb_that_says_to_be_small_is_unpacked_no_further(monkeypatch):
    data = changed("bees.docx", "word/document.xml", b" " * (2 << 20))
    size = (2 << 20).to_bytes(4, "little")
    assert data.count(size) == 2

    with pytest.raises(InputError, match=r"a\.docx: is damaged: word/document\.xml"):
        passages("a.docx", data.replace(size, (100).to_bytes(4, "little")))


def test_too_many_elements_are_refused(monkeypatch):
    monkeypatch.setattr(archive, "MAX_ELEMENTS", 3)
    with pytest.raises(InputError, match=r"\.xml: has more than 3 XML elements\. Split the document\."):
        passages("a.docx", (MIXED / "bees.docx").read_bytes())

"""Passages by their ids and places, lines of files, related passages, and explanations."""

from dataclasses import replace

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.lookup import PlaceInFile, find_file, find_passage, passage_of, passages_in
from mlx_colbert.collection.related import explain, similar
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.source_files import lines_of, surroundings
from mlx_colbert.documents import kinds
from mlx_colbert.errors import CollectionError, InputError

LINES = [f"line {number}" for number in range(1, 8)]


@pytest.fixture
def notes(collection, files):
    files.paragraphs("tea.md", "steep kettle", "honey kettle", "roof")
    files.write("2024/minutes.md", "\n".join(LINES) + "\n")
    collection.sync()
    return collection


@pytest.fixture
def copy(registry, files, notes):
    """Another collection of the same folder."""
    with Collection(registry.create(notes.settings, "copy"), backend="numpy") as made:
        made.sync()
        yield made


def first_id(notes, uri="notes/tea.md"):
    return notes.index.passages_of(uri)[0]


def test_passage_is_found_by_its_id_its_short_id_and_a_line(notes, files):
    doc_id = first_id(notes)
    short = f"#{doc_id.partition('#')[2]}"
    path = str(files.folder / "tea.md")
    for reference in (doc_id, short, short[1:], "notes/tea.md:1", "tea.md:1", f"{path}:1:5"):
        collection, hit = find_passage([notes], reference)
        assert (collection, hit.doc_id, hit.short_id, hit.path) == (notes, doc_id, short, path)


def test_line_between_two_passages_finds_the_next_one(notes):
    assert find_passage([notes], "tea.md:2")[1].line == 3
    with pytest.raises(InputError, match=r"notes/tea\.md: has no passage at 99. The last one ends at 5"):
        find_passage([notes], "tea.md:99")


@pytest.mark.parametrize(
    "reference", ["#00000000", "notes/tea.md", "tea.md:0", "tea.md:00", "tea.md:1:000", "", "nope.md:1", "#1"]
)
def test_unknown_passage_is_an_error(notes, reference):
    with pytest.raises(InputError):
        find_passage([notes], reference)


def test_several_candidates_are_listed(notes, copy):
    doc_id = first_id(notes)
    with pytest.raises(InputError, match=f"there are 2.*\n  notes: {doc_id}\n  copy: {doc_id}"):
        find_passage([notes, copy], doc_id)
    with pytest.raises(InputError, match=r"notes: notes/tea\.md\n  copy: notes/tea\.md"):
        find_file([notes, copy], PlaceInFile("tea.md"))
    assert find_passage([copy], doc_id)[0] is copy


def test_lines_of_a_file_are_those_of_the_disk(notes, files):
    file = lines_of(notes, "notes/2024/minutes.md")
    assert (file.lines, file.is_indexed) == (LINES, True)
    files.write("2024/minutes.md", "changed\r\nagain")
    file = lines_of(notes, "notes/2024/minutes.md")
    assert (file.lines, file.is_indexed) == (["changed", "again"], False)


def test_file_that_is_not_in_the_index_is_not_read(notes, files, tmp_path):
    files.write(".env", "secret")
    (tmp_path / "outside.md").write_text("secret")
    for path in (
        ".env",
        "notes/.env",
        "../outside.md",
        str(tmp_path / "outside.md"),
        "notes/../../outside.md",
    ):
        with pytest.raises(InputError, match="is not a file of collection notes"):
            find_file([notes], PlaceInFile(path))
    with pytest.raises(CollectionError, match="has no file"):
        lines_of(notes, "notes/.env")


def test_link_to_a_hidden_file_is_not_followed(notes, files):
    (files.folder / ".keys").mkdir()
    (files.folder / ".keys" / "key.md").write_text("secret")
    place = files.folder / "2024" / "minutes.md"
    place.unlink()
    place.symlink_to("../.keys/key.md")

    with pytest.raises(CollectionError, match="leads to a hidden file"):
        lines_of(notes, "notes/2024/minutes.md")


@pytest.mark.parametrize("is_folder", [False, True])
def test_link_that_leads_out_is_not_followed(notes, files, tmp_path, is_folder):
    """A file may become a link after it was indexed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "minutes.md").write_text("secret")
    place = files.folder / "2024"
    (place / "minutes.md").unlink()
    if is_folder:
        place.rmdir()
        place.symlink_to(outside)
    else:
        (place / "minutes.md").symlink_to(outside / "minutes.md")
    with pytest.raises(CollectionError, match="is a link that leads to a hidden file or out of"):
        lines_of(notes, "notes/2024/minutes.md")


def test_surroundings_are_the_lines_before_and_after(collection, files):
    text = "\n\n".join(f"{word} {' '.join(['pad'] * 150)}" for word in ("one", "two", "three"))
    files.write("long.md", text + "\n")
    collection.sync()
    hit = find_passage([collection], "long.md:3")[1]
    around = surroundings(hit, collection, 2)
    assert (around.first, around.before[0][:3], around.before[1], around.after[1][:5]) == (
        1,
        "one",
        "",
        "three",
    )
    files.write("long.md", "x\n" + text)
    assert surroundings(hit, collection, 2) is None
    (files.folder / "long.md").unlink()
    assert surroundings(hit, collection, 2) is None


def test_similar_passages_are_those_with_the_same_words(notes):
    _, passage = find_passage([notes], "tea.md:1")
    found = similar([notes], notes, passage, 2)
    assert [hit.rank for hit in found] == [1, 2]
    assert found[0].text.startswith("honey kettle")
    assert passage.doc_id not in {hit.doc_id for hit in found}
    assert 0.9 < found[0].similarity <= 1


def test_similar_needs_no_model(notes, no_model):
    with Collection(notes.place, backend="numpy") as again:
        no_model()
        assert similar([again], again, find_passage([again], "tea.md:1")[1])


def test_similar_passages_of_other_collections_with_the_same_model(notes, copy):
    _, passage = find_passage([notes], "tea.md:1")
    found = similar([notes, copy], notes, passage, 3)
    assert (found[0].collection, found[0].doc_id) == ("copy", passage.doc_id)


def test_explanation_names_the_word_that_met_each_word(notes):
    collection, passage = find_passage([notes], "tea.md:1")
    found = explain(collection.retriever, "steep zebra", passage)
    steep, zebra = found.words
    assert (steep.query_word, steep.passage_word, round(steep.similarity, 3)) == ("steep", "steep", 1.0)
    assert zebra.above < steep.above
    assert [passage.text[match.start : match.end] for match in found.matches] == ["steep"]


def test_explanation_tells_the_words_of_headings(collection, files):
    files.write("long.md", "# Owls\n\n" + "\n\n".join(f"{i} {' '.join(['pad'] * 150)}" for i in "ab"))
    collection.sync()
    last = [item for item in collection.index.passages() if item.position.get("headings") == ["Owls"]][-1]
    found = explain(collection.retriever, "Owls", find_passage([collection], last.doc_id)[1])
    assert (found.words[0].passage_word, found.words[0].in_heading) == ("Owls", True)


def test_passage_of_an_index_is_named_by_its_id_or_a_line(notes):
    _, tea = find_passage([notes], "tea.md:1")
    for reference in (tea.doc_id, "notes/tea.md:1", "tea.md:1"):
        assert passage_of(notes.index, reference).doc_id == tea.doc_id
    for reference in ("none.md", "none.md:1", "#12345678"):
        with pytest.raises(InputError, match="there is no such passage"):
            passage_of(notes.index, reference)


def test_file_alone_is_its_only_passage(notes):
    _, minutes = find_passage([notes], "minutes.md:1")

    assert len(notes.index.passages_of("notes/2024/minutes.md")) == 1
    for reference in ("minutes.md", "notes/2024/minutes.md"):
        assert find_passage([notes], reference)[1].doc_id == minutes.doc_id
        assert passage_of(notes.index, reference).doc_id == minutes.doc_id


def test_file_alone_with_several_passages_is_an_error_that_names_their_lines(notes):
    reason = r"notes/tea\.md: has 3 passages\. .*PATH:LINE.*:\n  notes/tea\.md:1\n  notes/tea\.md:3\n"
    with pytest.raises(InputError, match=reason):
        find_passage([notes], "tea.md")
    with pytest.raises(InputError, match=reason):
        passage_of(notes.index, "tea.md")


def test_file_alone_in_two_collections_is_an_error_that_names_them(notes, copy):
    with pytest.raises(InputError, match=r"notes: notes/tea\.md\n  copy: notes/tea\.md"):
        find_passage([notes, copy], "tea.md")


def test_settings_without_folders_give_an_error(registry):
    with pytest.raises(CollectionError, match="has no index yet"):
        find_passage([Collection(registry.create(CollectionSettings(), "empty"))], "x:1")


def test_lines_of_a_file_have_the_limit_of_the_collection(collection, registry, files, monkeypatch):
    files.write("long.md", "one\n\ntwo\n" * 20)
    monkeypatch.setitem(kinds._BY_SUFFIX, ".md", replace(kinds.kind_of("a.md"), max_bytes=100))
    registry.change(collection.place, lambda settings: replace(settings, max_file_bytes=1000))
    with Collection(collection.place, backend="numpy") as again:
        again.sync()
        assert lines_of(again, "notes/long.md").lines[:3] == ["one", "", "two"]


@pytest.fixture
def mixed(registry, model, data):
    settings = CollectionSettings(model="words").with_folder(data / "mixed")
    with Collection(registry.create(settings, "mixed"), backend="numpy") as made:
        made.sync()
        yield made


def shown(collection, reference):
    place = PlaceInFile.parse(reference)
    return [hit.text for hit in passages_in(*find_file([collection], place), place)]


@pytest.mark.parametrize("name", ["weather.pdf", "bees.docx", "garden.pptx", "study.ipynb", "voyage.epub"])
def test_file_without_lines_gives_its_passages_as_they_are_stored(mixed, name):
    stored = mixed.index.passages(doc_ids=mixed.index.passages_of(f"mixed/{name}"))

    assert shown(mixed, name) == [passage.text for passage in stored] != []


def test_page_gives_its_passages(mixed):
    assert shown(mixed, "weather.pdf:2") == ["Rain falls from nimbostratus for hours."]
    assert shown(mixed, "weather.pdf:1:3") == shown(mixed, "weather.pdf")
    assert find_passage([mixed], "weather.pdf:2")[1].text.startswith("Rain falls")


def test_cell_gives_the_passage_that_has_it(mixed):
    passages = shown(mixed, "study.ipynb")
    assert shown(mixed, "study.ipynb:1") == shown(mixed, "study.ipynb:2") == passages[:1]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("weather.pdf:99", r"mixed/weather\.pdf: has no passage at 99\. The last one ends at 3\."),
        ("bees.docx:1", r"mixed/bees\.docx: has no lines or pages\. Give the file alone"),
    ],
)
def test_page_that_a_file_does_not_have_is_an_error(mixed, reference, reason):
    with pytest.raises(InputError, match=reason):
        shown(mixed, reference)
    with pytest.raises(InputError, match=reason):
        find_passage([mixed], reference)

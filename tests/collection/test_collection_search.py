"""Search in collections: what may be found, how rankings are merged, how sure a hit is."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_colbert.collection import confidence
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import (
    CALIBRATION_NAME,
    Calibration,
    calibrate,
    calibration_of,
    is_relevant,
)
from mlx_colbert.collection.fresh_search import refreshed
from mlx_colbert.collection.restriction import Restriction, parsed_time
from mlx_colbert.collection.search import search
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.errors import CollectionNotFoundError, InputError


@pytest.fixture
def notes(collection, files):
    files.paragraphs("tea.md", "steep", "kettle")
    files.paragraphs("2024/bees.md", "honey")
    files.write("2024/tool.py", "def brew(kettle):\n    return honey\n")
    collection.sync()
    return collection


@pytest.fixture
def others(registry, tmp_path, model):
    """Another collection with the same label of its folder and one equal file."""
    folder = tmp_path / "other" / "notes"
    folder.mkdir(parents=True)
    (folder / "tea.md").write_text("steep\n")
    settings = CollectionSettings(model="words").with_folder(folder)
    with Collection(registry.create(settings, "others"), backend="numpy") as made:
        made.sync()
        yield made


def sources(collections, query="honey kettle steep", **restriction):
    found = search(collections, query, restriction=Restriction(**restriction), min_confidence=None)
    return sorted({hit.source for hit in found.hits})


def test_best_hit_has_the_words_and_its_place(notes):
    hit = search([notes], "steep", with_matches=True).hits[0]
    assert (hit.rank, hit.collection, hit.source, hit.line) == (1, "notes", "notes/tea.md", 1)
    assert hit.path == str(notes.settings.folders["notes"]) + "/tea.md"
    assert hit.link == f"file://{hit.path}"
    assert [hit.text[match.start : match.end] for match in hit.matches] == ["steep"]
    assert hit.doc_id.endswith(hit.short_id) and len(hit.short_id) == 9


def test_hit_has_the_sentences_of_the_user(notes, registry):
    settings = CollectionSettings(
        notes.settings.folders, model="words", contexts={"/": "Mine.", "notes/2024": "This year."}
    )
    registry.change(notes.place, lambda _: settings)
    with Collection(notes.place, backend="numpy") as again:
        assert search([again], "honey").hits[0].context == ("Mine.", "This year.")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("2024", ["notes/2024/bees.md", "notes/2024/tool.py"]),
        ("notes/2024/", ["notes/2024/bees.md", "notes/2024/tool.py"]),
        ("*.md", ["notes/2024/bees.md", "notes/tea.md"]),
        ("notes/2024/*.md", ["notes/2024/bees.md"]),
        ("tea.md", ["notes/tea.md"]),
        ("ea.md", []),
    ],
)
def test_search_in_a_path_or_a_pattern(notes, path, expected):
    assert sources([notes], paths=[path]) == expected


def test_search_in_a_path_of_the_disk(notes, files):
    assert sources([notes], paths=[str(files.folder / "2024" / "bees.md")]) == ["notes/2024/bees.md"]
    here = files.folder / "2024"
    assert sources([notes], paths=["."], near=here) == ["notes/2024/bees.md", "notes/2024/tool.py"]
    assert sources([notes], paths=["../tea.md"], near=here) == ["notes/tea.md"]
    assert len(sources([notes], paths=[".."], near=here)) == 3


def test_path_in_no_folder_is_a_name_in_the_index(notes, files, monkeypatch):
    """A server has a current folder, but those who ask it are not there."""
    monkeypatch.chdir(files.folder)
    (files.folder.parent / "2024").mkdir()
    monkeypatch.chdir(files.folder.parent)
    assert sources([notes], paths=["2024"]) == ["notes/2024/bees.md", "notes/2024/tool.py"]


def test_path_with_a_zero_is_refused(notes):
    with pytest.raises(InputError, match="is not a path to search in"):
        sources([notes], paths=["/a\0b"])


def test_search_for_kinds_times_words_and_metadata_at_once(notes, files):
    assert sources([notes], kinds=["py"]) == ["notes/2024/tool.py"]
    assert sources([notes], kinds=["code", "markdown"], paths=["2024"]) == [
        "notes/2024/bees.md",
        "notes/2024/tool.py",
    ]
    assert sources([notes], pattern="^def ") == ["notes/2024/tool.py"]
    assert sources([notes], filter="path = 'tea.md' or kind = 'code'", paths=["tea.md"]) == ["notes/tea.md"]
    assert sources([notes], since="2100") == []
    assert len(sources([notes], since="2000", before="2100-01-01T00:00")) == 3


def test_restriction_goes_before_the_candidates(collection, files):
    """The passage that is searched for is not among the best 100 of all."""
    files.paragraphs("many.md", *["honey"] * 150)
    files.write("one.md", "other")
    collection.sync()
    assert sources([collection], "honey", paths=["one.md"]) == ["notes/one.md"]
    assert sources([collection], "honey", pattern="other") == ["notes/one.md"]


def test_pattern_without_a_match_says_so(notes):
    found = search([notes], "honey", restriction=Restriction(pattern="no[0-9]such"))
    assert found.hits == []
    assert found.notes == ["No passage matches the regular expression 'no[0-9]such'."]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "("}, r"'\(': is not a regular expression: "),
        ({"kinds": ["word"]}, "'word': is not a kind of file. Choose one of code, docx, epub"),
        ({"since": "yesterday"}, "'yesterday': is not a date. Give a day such as 2024-05-31"),
        ({"before": "2024-13"}, "is not a date"),
    ],
)
def test_restriction_that_cannot_be_used_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        Restriction(**values)


def test_wrong_filter_is_told_with_the_column_of_the_user(notes):
    with pytest.raises(InputError, match="filter, column 6"):
        search([notes], "honey", restriction=Restriction(filter="kind ! 'x'", kinds=["md"]))


def test_times_are_days_months_years_and_ages():
    assert (
        parsed_time("2024-05Z")
        if False
        else parsed_time("2024-05-31T18:00:00+02:00") == "2024-05-31T16:00:00Z"
    )
    assert parsed_time("0999-05-31T00:00Z") == "0999-05-31T00:00:00Z"
    assert parsed_time("7d") > parsed_time("2w") > parsed_time("3m") > parsed_time("2020")


def test_collections_of_one_model_merge_by_score(notes, others):
    found = search([notes, others], "steep", mode="semantic", min_confidence=None)
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert {hit.collection for hit in found.hits[:2]} == {"notes", "others"}
    assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))


def test_equal_ids_of_two_collections_are_two_hits(notes, others, files):
    files.write("tea.md", "steep\n")
    notes.sync()
    hits = search([notes, others], "steep", k=2).hits
    assert {hit.doc_id for hit in hits} == {hits[0].doc_id}
    assert {hit.collection for hit in hits} == {"notes", "others"}


def test_collections_of_different_models_merge_by_rank(notes, others, monkeypatch):
    """Their scores say nothing about each other, so the first of each comes before the second of each."""
    meta = dict(others.index.model) | {"fingerprint": "another"}
    monkeypatch.setattr(others.index, "model", meta)
    others.retriever.model.fingerprint = "words-1"
    hits = search([notes, others], "steep", mode="semantic", min_confidence=None).hits
    assert {hit.collection for hit in hits[:2]} == {"notes", "others"}
    assert hits[0].score == hits[1].score


def test_model_is_loaded_once_for_collections_that_share_it(notes, others, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        type(others.retriever), "model", property(lambda self: loaded.append(self) or notes_model)
    )
    notes_model = notes.retriever.__dict__["_model"]
    search([notes, others], "steep")
    assert len(set(map(id, loaded))) == 1


def test_keyword_search_loads_no_model(notes, no_model):
    with Collection(notes.place, backend="numpy") as again:
        no_model()
        hits = search([again], "Kettle", mode="keyword", with_matches=True).hits
        assert [hit.text[match.start : match.end] for hit in hits for match in hit.matches] == ["kettle"] * 2
        assert {hit.source for hit in hits} == {"notes/tea.md", "notes/2024/tool.py"}
        assert hits[0].confidence is None and is_relevant(hits[0])


def test_unrelated_query_finds_nothing_relevant(notes):
    found = search([notes], "trampoline quantum asphalt jazz lawyer")
    assert (found.hits, found.n_below) == ([], 4)
    assert found.best_below < 0.1
    everything = search([notes], "trampoline quantum asphalt jazz lawyer", min_confidence=None)
    assert len(everything.hits) == 4
    assert not any(map(is_relevant, everything.hits))


def test_calibration_is_measured_once(notes, model):
    search([notes], "honey")
    assert (notes.place.path / CALIBRATION_NAME).is_file()
    model.encoded.clear()
    before = (notes.place.path / CALIBRATION_NAME).read_bytes()
    search([notes], "honey")
    assert (notes.place.path / CALIBRATION_NAME).read_bytes() == before


def test_many_first_searches_at_once_measure_the_calibration_once(notes, model, monkeypatch):
    started, n_measured = threading.Barrier(4), []

    def counted(collection, model):
        n_measured.append(1)
        return calibrate(collection, model)

    def first_search():
        started.wait(60)
        with Collection(notes.place) as collection:
            return calibration_of(collection, model)

    monkeypatch.setattr(confidence, "calibrate", counted)
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(first_search) for _ in range(4)]]
    assert len(n_measured) == 1 and len(set(found)) == 1


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"fingerprint": "words-1", "n_passages": 4, "mean": 7}'])
def test_damaged_calibration_is_measured_again(notes, damaged):
    (notes.place.path / CALIBRATION_NAME).write_bytes(damaged)
    assert search([notes], "honey").hits
    assert 0 <= float((notes.place.path / CALIBRATION_NAME).read_text().partition('"mean": ')[2][:3]) < 0.9


def test_confidence_grows_with_the_evidence():
    values = [Calibration().confidence(evidence) for evidence in (-1, 0.3, 0.5, 0.8, 1.0)]
    assert values == sorted(values) and 0 < values[0] and values[-1] < 1


def test_collection_without_an_index_is_left_out_with_a_note(notes, registry, tmp_path):
    empty = Collection(registry.create(CollectionSettings(), "empty"))
    found = search([notes, empty], "honey")
    assert found.hits and found.notes[0].startswith("empty: not searched: collection empty: has no index")
    with pytest.raises(CollectionNotFoundError, match="has no index yet"):
        search([empty], "honey")


def test_collection_whose_files_have_no_text_is_silent_until_they_have_some(notes, registry, tmp_path):
    (tmp_path / "new").mkdir()
    settings = CollectionSettings(model="words").with_folder(tmp_path / "new")
    empty = Collection(registry.create(settings), backend="numpy")
    empty.sync()

    found = search([empty, notes], "honey", refresh_s=5)
    assert found.hits and found.notes == []
    with pytest.raises(CollectionNotFoundError, match="has no files with text yet"):
        search([empty], "honey")
    (tmp_path / "new" / "a.md").write_text("honey\n")
    told = "new: 1 file not in step with the index. Run: mlx-colbert sync --name new"
    assert search([empty, notes], "honey", refresh_s=5).notes == [told]


def test_changed_files_are_found_after_a_refresh(notes, files):
    files.paragraphs("new.md", "trampoline")
    assert refreshed([notes]) == []
    assert search([notes], "trampoline").hits[0].source == "notes/new.md"


def test_files_that_wait_are_told(notes, files, monkeypatch):
    files.paragraphs("new.md", "trampoline")
    monkeypatch.setattr("mlx_colbert.collection.place.locked", _busy)
    assert refreshed([notes]) == ["notes: 1 file not in step with the index. It is being changed now."]


def _busy(path, name, **_):
    from mlx_colbert.errors import CollectionBusyError

    raise CollectionBusyError(name, "another process is changing it.")


def test_list_of_unrelated_words_does_not_spoil_the_calibration(collection, files, model):
    """A dictionary has the words of every random query."""
    files.paragraphs("notes.md", *(f"word{number}" for number in range(20)))
    collection.sync()
    before = calibrate(collection, model).mean
    files.write("dictionary.txt", " ".join(confidence._WORDS))
    collection.sync()
    assert (
        collection.index.search_keywords(" ".join(confidence._WORDS[:3]))[0].source == "notes/dictionary.txt"
    )
    assert calibrate(collection, model).mean == pytest.approx(before, abs=0.05)

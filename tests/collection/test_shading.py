"""How much each word of a passage answers a query."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.matches import shading, word_spans
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.search import search
from mlx_colbert.collection.settings import CollectionSettings

# A row of a rare word, which is far from most tokens, and one of a function word, which is near to all.
TYPICAL = np.array([[0.2] * 9, [0.7] * 9])


def shades(text, similarities, query_words=(0, 1), **first):
    found = shading(text, word_spans(text), np.array(similarities), TYPICAL, query_words, **first)
    return [(match.similarity, match.query_word) for match in found]


def test_typical_word_is_white_and_the_word_of_the_query_is_full():
    assert shades("tea leaf", [[1.0, 0.2], [0.7, 0.7]]) == [(1.0, 0), (0.0, 0)]


def test_function_word_is_pale_even_where_it_stands_itself():
    found = shades("the", [[0.2], [1.0]])
    assert found == [(pytest.approx(0.3 / 0.8), 1)]


def test_word_that_is_farther_than_typical_words_is_white():
    assert shades("stone", [[-0.5], [0.1]]) == [(0.0, 0)]


def test_word_of_several_tokens_has_the_shade_of_its_best_one():
    spans, similarities = [(0, 3), (3, 7)], np.array([[0.2, 0.6], [0.7, 0.7]])
    (found,) = shading("teapots", spans, similarities, TYPICAL, [0, 1])
    assert (found.start, found.end, found.similarity) == (0, 7, pytest.approx(0.5))


def test_words_of_the_headings_have_no_shade():
    text = "Tea\nleaf"
    found = shading(text, word_spans(text), np.full((2, 2), 0.9), TYPICAL, [0, 1], first=4)
    assert [(match.start, match.end) for match in found] == [(0, 4)]


def test_hit_has_each_of_its_words_with_its_shade(collection, files):
    files.write("tea.md", "steep the leaves\n")
    files.paragraphs("other.md", "honey", "bees")
    collection.sync()
    hit = search([collection], "leaves steep", with_words=True).hits[0]
    shown = {hit.text[word.start : word.end]: word for word in hit.words}
    assert list(shown) == ["steep", "the", "leaves"] and hit.matches == ()
    assert (shown["leaves"].query_word, shown["steep"].query_word) == (0, 1)
    assert shown["leaves"].similarity > 0.9 > 0.5 > shown["the"].similarity
    assert json.loads(json.dumps(hit.to_dict()))["words"][0].keys() == {
        *("start", "end", "similarity", "query_word")
    }


def test_keyword_search_shades_the_words_that_it_found(collection, files):
    files.write("tea.md", "steep the leaves\n")
    collection.sync()
    (hit,) = search([collection], "leaves", mode="keyword", with_words=True).hits
    assert [(hit.text[word.start : word.end], word.similarity) for word in hit.words] == [("leaves", 1.0)]


def test_found_says_where_the_words_of_the_query_are(collection, files):
    files.write("tea.md", "steep\n")
    collection.sync()
    words = search([collection], "how to: steep").to_dict()["query_words"]
    assert words[2] == {"start": 8, "end": 13, "text": "steep"}


def test_surroundings_of_hits_are_those_of_their_own_collection(registry, tmp_path, files, collection):
    """Two collections have a file of the same name."""
    folder = tmp_path / "other" / "notes"
    folder.mkdir(parents=True)
    type(files)(folder).paragraphs("tea.md", "other", "steep")
    files.paragraphs("tea.md", "own", "steep")
    settings = CollectionSettings(model="words").with_folder(folder)
    with Collection(registry.create(settings, "others"), backend="numpy") as other:
        collection.sync()
        other.sync()
        hits = search([collection, other], "steep", 2, n_lines=9).hits
    before = {hit.collection: hit.surroundings.before[0].split()[0] for hit in hits}
    assert before == {"notes": "own", "others": "other"}


@pytest.mark.slow
def test_real_model_shades_what_answers(tmp_path, answerai):
    (tmp_path / "notes").mkdir()
    text = "Yellow leaves on a house plant mostly mean too much water. Let the soil dry between waterings."
    (tmp_path / "notes" / "plants.md").write_text(text)
    settings = CollectionSettings(model=str(answerai)).with_folder(tmp_path / "notes")
    with Collection(Registry(tmp_path / "home").create(settings), backend="numpy") as made:
        made.sync()
        found = search([made], "why do the leaves of my plants turn yellow", with_words=True)
    hit = found.hits[0]
    shown = {hit.text[word.start : word.end]: word.similarity for word in hit.words}
    assert min(shown["Yellow"], shown["leaves"], shown["plant"]) > 0.4
    assert max(shown["the"], shown["a"], shown["soil"], shown["water"]) < 0.35

"""What a notebook shows of results, and that the lists stay lists."""

import copy
import json
import pickle
import re
from html.parser import HTMLParser

import pytest

from mlx_colbert import ColBERT, Hit, Index, Retriever, TokenMatch
from mlx_colbert.results import Hits, Matches

SCRIPT = "<script>alert('x')</script> & \"quotes\" <img src=x onerror=y>"


class Page(HTMLParser):
    """The tags, attributes and text of some HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def model(data):
    return ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")


@pytest.fixture
def retriever(model, tmp_path):
    with Retriever.create(tmp_path / "index", model) as retriever:
        retriever.add(
            [f"tea {SCRIPT}", "snow"], ["<i>tea</i>", "snow"], [{"<b>key</b>": "<u>value</u>"}, None]
        )
        yield retriever


def test_hits_of_a_stranger_are_shown_as_text(retriever):
    page = Page(retriever.search("tea")._repr_html_())

    assert set(page.tags) == {"table", "tr", "th", "td"} and set(page.attributes) == {"style"}
    assert (
        f"tea {SCRIPT}" in page.text and "<i>tea</i>" in page.text and "<b>key</b>: <u>value</u>" in page.text
    )


def test_matches_of_a_stranger_are_shown_as_text_with_shading(model):
    text = f"tea {SCRIPT}"
    matches = model.explain(f"how is tea made {SCRIPT}", text)
    html = matches._repr_html_()

    page = Page(html)
    assert set(page.tags) == {"p", "mark", "table", "tr", "th", "td"} and set(page.attributes) == {
        "style",
        "title",
    }
    assert page.text.startswith(text)
    shades = [float(shade) for shade in re.findall(r"rgba\(255,160,0,([0-9.]+)\)", html)]
    assert shades and max(shades) == 0.9 and all(0.15 <= shade <= 0.9 for shade in shades)
    assert f"MaxSim {sum(match.similarity for match in matches):.3f}" in page.text


def test_each_part_of_the_document_is_shown_once_even_if_windows_cut_it_twice():
    matches = [TokenMatch("a", "cd", 0, 0.5), TokenMatch("b", "de", 1, 0.7), TokenMatch("[Q]", "[D]", 2, 1.0)]
    page = Page(Matches(matches, "abcdef", [(2, 4), (3, 5), (0, 0)])._repr_html_())

    assert page.text.startswith("abcdefMaxSim")


def test_long_text_of_a_hit_is_shortened_in_the_table_alone():
    hits = Hits([Hit(1, 2.0, "a", "word " * 1000, source="a.md", position={"lines": [3, 9]})])

    assert len(hits._repr_html_()) < 1000 and "a.md:3-9" in hits._repr_html_()
    assert len(hits[0].text) == 5000


def test_nothing_found_is_an_empty_table():
    assert Page(Hits()._repr_html_()).text == "rankscorepassagetextmetadata"
    assert "MaxSim 0.000" in Matches()._repr_html_()


def test_all_searches_give_lists_that_compare_copy_and_pickle_as_lists(retriever, model):
    found = [
        retriever.search("tea"),
        *retriever.search(["tea", "snow"], mode="hybrid"),
        retriever.search("tea", mode="keyword"),
        retriever.rerank("tea", ["snow", "<i>tea</i>"]),
        model.rerank("tea", ["tea", "snow"]),
        retriever.store.search(model.encode_query("tea")),
        retriever.store.search_keywords("tea"),
    ]
    for hits in found:
        assert type(hits) is Hits and hits == list(hits) and hits
        assert pickle.loads(pickle.dumps(hits)) == copy.deepcopy(hits) == hits
        assert json.loads(json.dumps([hit.to_dict() for hit in hits]))[0]["rank"] == 1
    matches = retriever.explain("tea", "snow")
    again = pickle.loads(pickle.dumps(matches))
    assert again == list(matches) and again._repr_html_() == matches._repr_html_()


def test_public_values_pickle_and_objects_with_files_say_why_not(retriever, model, tmp_path):
    import mlx_colbert

    values = [
        mlx_colbert.Filter("n > ?", 1),
        mlx_colbert.SearchParams(n_probe=2),
        mlx_colbert.Source("a.md", "/notes"),
        mlx_colbert.Hit(1, 2.0, "a", "text", {"n": 1}),
        mlx_colbert.TokenMatch("a", "b", 0, 0.5),
    ]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
    embeddings = model.encode_document(["tea", "snow"])
    again = pickle.loads(pickle.dumps(embeddings))
    assert (
        again.lengths.tolist() == embeddings.lengths.tolist() and (again.vectors == embeddings.vectors).all()
    )

    with Index.open(retriever.store.path) as index:
        for value in (model, retriever, index):
            with pytest.raises(
                TypeError, match=r"cannot be pickled or copied\. (Load|Open) it in each process"
            ):
                pickle.dumps(value)
    # A conversation has a search and a language model of its process.
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(mlx_colbert.Conversation(retriever.search, None))

"""HTML: what is kept of a page, and that no page does harm."""

import pytest
from file_kinds import mixed, passages, texts


def test_page_keeps_its_text_and_not_its_scripts_and_menus():
    assert mixed("page.html") == [
        (
            "We sell green tea & cups.\n\nPrices\n\ntea | price\ngreen | 4\nblack | 3\n\n"
            "- Open daily\n  - from nine\n- Closed in May\n\n  x = 1\n    y",
            {"lines": [5, 12], "headings": ["Tea shop"]},
        )
    ]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one<p>two", "one\n\ntwo"),
        ("a<br>b", "a\nb"),
        ("<ol><li>x<li><p>y</p></ol>", "1. x\n2. y"),
        ("<dl><dt>term<dd><p>what it is</dl>", "term\nwhat it is"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a | b\nc | d"),
        ("<table><tr><td>a</td><td></td><td>b</td></tr></table>", "a |  | b"),
        ("<table><tr><td><table><tr><td>in</td></tr></table></td></tr></table>", "in"),
        ("<div hidden>no</div><div role='navigation'>no</div>yes", "yes"),
        ("<img alt='a cup'>", "a cup"),
        ("&lt;b&gt; &eacute; &#x41;", "<b> é A"),
        ("<p>2024</p><p>-</p>", "2024\n\n-"),
        ("<body></p></div></table></ul>text", "text"),
        ("<!-- no --><p>x", "x"),
    ],
)
def test_elements_become_text(page, text):
    assert texts("a.html", page) == [text]


def test_page_is_read_in_the_encoding_that_it_names():
    page = '<meta charset="koi8-r"><p>Чай и кофе</p>'.encode("koi8-r")
    assert texts("a.html", page) == ["Чай и кофе"]


def test_header_of_a_long_table_is_repeated():
    rows = "".join(f"<tr><td>{n}</td><td>{'word ' * 9}</td></tr>" for n in range(50))
    found = texts("a.html", f"<table><tr><th>n</th><th>words</th></tr>{rows}</table>")
    assert len(found) > 1 and all(text.startswith("n | words\n") for text in found)


def test_heading_has_no_sign_of_a_link():
    (found,) = passages("a.html", '<h1>Tea<a class="headerlink" href="#tea">¶</a></h1><p>' + "word " * 60)
    assert found.position["headings"] == ["Tea"]


@pytest.mark.slow
def test_deeply_nested_page_is_read():
    for tag in ("div", "ul", "table", "span", "blockquote"):
        page = f"<{tag}>" * 50_000 + "<li>tea</li>"
        assert "tea" in " ".join(texts("a.html", page)) or tag == "table"


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "<!--",
        "<a ",
        "<![",
        "</",
        "<a b='",
        "<a b='>",
        "&",
        "&#1",
        "<",
        "<script>",
        "<title>",
        "<a/",
        "<p><ul>",
    ],
)
def test_broken_page_takes_a_time_that_grows_with_its_length(piece):
    # The parser of the standard library needs hours for some of these.
    texts("a.html", piece * 200_000)

"""Server-sent events, whatever the pieces in which they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.ask.language_models import events as module
from mlx_colbert.ask.language_models.events import Patience, events


def read(stream, *, sizes=(1 << 16,)):
    """The events of a stream that comes in pieces of these sizes."""
    pieces, at = [], 0
    while at < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[at : at + size])
        at += size
    return list(events(lambda deadline: pieces.pop(0) if pieces else b"", Patience(9, 9)))


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]),
        (b"data:a\ndata: b\n\n", ["a\nb"]),
        (b": keepalive\n\n:\n\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 9\ndata: a\nother\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data:  two spaces\n\n", [" two spaces"]),
        (b"data\n\n", [""]),
        (b"data: without its end\n", []),
        (b"data: a\n\ndata: cut", ["a"]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_of_a_stream(stream, data, size):
    assert read(stream, sizes=(size,)) == data


@given(
    st.lists(
        st.sampled_from([b"data: a", b"data:", b"\n", b"\r", b"\r\n", b": x", b"\n\n", b"\xc3\xa9"]),
        max_size=20,
    ),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_events_do_not_depend_on_the_pieces(parts, sizes):
    stream = b"".join(parts)

    assert read(stream, sizes=sizes) == read(stream)


def test_lines_and_streams_have_a_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(module, "MAX_STREAM_BYTES", 1000)

    with pytest.raises(ValueError, match="a line is longer than 100 bytes"):
        read(b"data: " + b"x" * 200, sizes=(10,))
    with pytest.raises(ValueError, match="a line is longer than 100 bytes"):
        read(b"data: " + b"x" * 200 + b"\n\n")
    with pytest.raises(ValueError, match="an event is longer than 100 characters"):
        read(b"data: xxxxxxxx\n" * 20)
    with pytest.raises(ValueError, match="the stream is longer than 1,000 bytes"):
        read(b": keepalive\n\n" * 100, sizes=(13,))


def test_bytes_that_are_not_utf_8_are_an_error():
    with pytest.raises(ValueError, match="not UTF-8"):
        read(b"data: \xff\n\n")

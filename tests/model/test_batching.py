"""Windows of texts, the thread that makes the next one, and the batches of a window."""

import threading

import numpy as np
import pytest

from mlx_colbert.model import batching
from mlx_colbert.model.batching import ahead, batches, joined, windows
from mlx_colbert.types import TokenEmbeddings


def mixed_lengths(n=2000, longest=300):
    return np.random.default_rng(0).integers(3, longest + 1, n)


def test_every_row_is_in_one_batch_within_the_budget(encoder_ops):
    plan = batches(mixed_lengths(), encoder_ops, 300)
    assert sorted(row for members, _ in plan for row in members) == list(range(2000))
    assert all(len(members) * width <= encoder_ops.batch_tokens for members, width in plan)


def test_no_row_is_padded_beyond_its_bucket(encoder_ops):
    lengths = mixed_lengths()
    for members, width in batches(lengths, encoder_ops, 300):
        assert width >= lengths[members].max()
        assert width - lengths[members].min() < 32


def test_widths_are_few_and_no_wider_than_the_longest_text_may_be(encoder_ops):
    widths = {width for _, width in batches(mixed_lengths(), encoder_ops, 300)}
    assert max(widths) <= 300
    if encoder_ops.length_multiple == 32:  # each width is a kernel compiled, and buffers that are not reused
        assert widths == {32, 64, 96, 128, 160, 192, 224, 256, 288, 300}


def test_longest_rows_come_first_so_that_memory_peaks_at_once(encoder_ops):
    widths = [width for _, width in batches(mixed_lengths(), encoder_ops, 300)]
    assert widths == sorted(widths, reverse=True)


def test_less_than_8_percent_of_passages_of_200_tokens_is_padding(encoder_ops):
    # About the lengths of arXiv's abstracts: 213 ± 80.
    lengths = np.clip(np.random.default_rng(0).normal(213, 80, 512), 20, 500).astype(np.int64)
    padded = sum(len(members) * width for members, width in batches(lengths, encoder_ops, 512))
    assert padded / lengths.sum() < 1.08


def test_a_row_beyond_the_budget_is_a_batch_of_its_own(encoder_ops):
    plan = batches(np.array([100_000, 5, 100_000]), encoder_ops, 100_000)
    assert [len(members) for members, _ in plan] == [1, 1, 1]


def test_a_window_ends_at_its_count_or_at_its_characters(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(batching, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d" * 9, "e", "f" * 50, "g"]
    assert [len(window) for window in windows(texts, len)] == [3, 2, 1, 1]


def test_the_next_item_is_made_while_one_is_in_use_and_no_more():
    made = []
    two = threading.Event()

    def items():
        for number in range(10):
            made.append(number)
            if number == 1:
                two.set()
            yield number

    following = ahead(items())
    assert next(following) == 0
    assert two.wait(10)
    following.close()
    assert made == [0, 1]


def test_an_error_in_the_thread_is_raised_where_the_item_is_asked_for():
    def items():
        yield 1
        raise ValueError("no second item")

    following = ahead(items())
    assert next(following) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(following)


def test_parts_are_joined_in_order():
    parts = [
        TokenEmbeddings.pack([np.full((n, 2), n, np.float32) for n in lengths]) for lengths in ([1, 2], [3])
    ]
    whole = joined(parts, 2)
    assert [len(rows) for rows in whole] == [1, 2, 3]
    assert whole.vectors[:, 0].tolist() == [1, 2, 2, 3, 3, 3]
    assert joined([], 5).vectors.shape == (0, 5)

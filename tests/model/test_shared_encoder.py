"""One thread that encodes for all."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.errors import CheckpointError, StoppingError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.shared_encoder import CallerLeftError, SharedEncoder, abandoned_if, sharing

CHECKPOINT = Path(__file__).parents[1] / "data/checkpoints/pylate-bert"
TEXTS = ["Bees dance.", "", "!", "A very long text " * 200, "🐝", "蜜蜂跳舞", "Tea " * 30]


@pytest.fixture
def model(backend):
    return ColBERT.load(CHECKPOINT, backend=backend)


def test_texts_of_many_threads_have_the_vectors_that_they_have_alone(model):
    alone = model.encode_document(TEXTS), model.encode_query(TEXTS)
    encoder = SharedEncoder()
    with sharing(encoder), ThreadPoolExecutor(8) as threads:
        documents = [threads.submit(model.encode_document, TEXTS) for _ in range(6)]
        single = [threads.submit(model.encode_query, text) for text in TEXTS]
        for found in documents:
            assert found.result().lengths.tolist() == alone[0].lengths.tolist()
            np.testing.assert_allclose(found.result().vectors, alone[0].vectors, atol=2e-6)
        for found, vectors in zip(single, alone[1], strict=True):
            np.testing.assert_allclose(found.result(), vectors, atol=2e-6)
    encoder.close()


class Recorded:
    """Computes by the lengths alone, and notes each batch. The first batch waits until it may go on."""

    def __init__(self, *, fails_on=None):
        self.batches = []
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self.fails_on = fails_on

    def __call__(self, texts):
        from mlx_colbert.types import TokenEmbeddings

        lengths = texts.row_lengths
        self.batches.append(lengths.tolist())
        self.has_begun.set()
        self.may_go_on.wait(30)
        if self.fails_on in lengths:
            raise CheckpointError("model", "a value is not finite.")
        vectors = np.repeat(lengths.astype(np.float32), lengths)[:, None]
        return TokenEmbeddings(vectors, lengths)


def texts_of(*lengths):
    from mlx_colbert.model.tokenizer import TokenizedRow, TokenizedTexts

    rows = [TokenizedRow(np.zeros(n, np.int32), n, np.ones(n, np.bool_)) for n in lengths]
    return TokenizedTexts(rows, np.ones(len(lengths), np.int64), 0, 4096)


def asked_while_one_is_computed(compute, *requests):
    """What each request gets. All wait while the thread computes another one."""
    encoder = SharedEncoder()
    with ThreadPoolExecutor(len(requests) + 1) as threads:
        first = threads.submit(encoder.encode, "m", texts_of(1), compute, lambda *_: None)
        assert compute.has_begun.wait(30)
        found = []
        for number, (model, lengths) in enumerate(requests, start=1):
            found.append(threads.submit(encoder.encode, model, texts_of(*lengths), compute, lambda *_: None))
            while encoder.n_waiting < number:
                pass
        compute.may_go_on.set()
        first.result(30)
        results = [future.exception(30) or future.result().lengths.tolist() for future in found]
    encoder.close()
    return results


def test_short_requests_that_wait_are_one_batch_for_each_model():
    compute = Recorded()
    results = asked_while_one_is_computed(compute, ("m", [2, 3]), ("other", [9]), ("m", [4]))
    assert results == [[2, 3], [9], [4]]
    assert compute.batches == [[1], [2, 3, 4], [9]]


def test_one_text_that_cannot_be_encoded_fails_alone():
    first, second, third = asked_while_one_is_computed(
        Recorded(fails_on=7), ("m", [2]), ("m", [7]), ("m", [5])
    )
    assert first == [2] and isinstance(second, CheckpointError) and third == [5]


def test_query_passes_the_parts_of_a_long_request():
    compute = Recorded()
    results = asked_while_one_is_computed(compute, ("m", [900] * 4), ("m", [5]))
    assert results == [[900] * 4, [5]]
    assert compute.batches[1] == [5]


def test_long_request_goes_on_among_many_short_ones():
    encoder, compute = SharedEncoder(), Recorded()
    compute.may_go_on.set()
    is_over = threading.Event()

    def ask_without_end():
        while not is_over.is_set():
            encoder.encode("m", texts_of(200), compute, lambda *_: None)

    with ThreadPoolExecutor(9) as threads:
        short = [threads.submit(ask_without_end) for _ in range(8)]
        long = threads.submit(encoder.encode, "m", texts_of(*[900] * 20), compute, lambda *_: None)
        assert long.result(60).lengths.tolist() == [900] * 20
        is_over.set()
        for future in short:
            future.result(30)
    encoder.close()


def test_request_of_a_caller_that_left_is_not_computed():
    compute = Recorded()
    encoder = SharedEncoder()
    has_left = threading.Event()

    def ask():
        with abandoned_if(has_left.is_set):
            return encoder.encode("m", texts_of(5), compute, lambda *_: None)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(encoder.encode, "m", texts_of(1), compute, lambda *_: None)
        assert compute.has_begun.wait(30)
        second = threads.submit(ask)
        while not encoder.n_waiting:
            pass
        has_left.set()
        compute.may_go_on.set()
        assert isinstance(second.exception(30), CallerLeftError) and first.result(30)
    encoder.close()
    assert compute.batches == [[1]]


def test_closed_encoder_computes_what_waits_and_takes_no_more():
    compute = Recorded()
    encoder = SharedEncoder()
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(encoder.encode, "m", texts_of(n), compute, lambda *_: None) for n in (1, 2)]
        assert compute.has_begun.wait(30)
        closing = threads.submit(encoder.close)
        compute.may_go_on.set()
        closing.result(30)
        answered = [future for future in found if future.exception(30) is None]
        assert answered
    with pytest.raises(StoppingError):
        encoder.encode("m", texts_of(1), compute, lambda *_: None)


def test_thread_that_waits_does_not_hold_the_last_model():
    encoder, compute = SharedEncoder(), Recorded()
    compute.may_go_on.set()
    encoder.encode("m", texts_of(1), compute, lambda *_: None)
    last = weakref.ref(compute)
    del compute
    for _ in range(1000):
        # The thread answers a little before it waits.
        if last() is None:
            break
        threading.Event().wait(0.01)
    assert last() is None
    encoder.close()


def test_error_of_the_thread_reaches_the_caller_and_the_thread_goes_on():
    encoder, compute = SharedEncoder(), Recorded()
    compute.may_go_on.set()

    def fail():
        raise ValueError("no")

    with abandoned_if(fail), pytest.raises(ValueError, match="no"):
        encoder.encode("m", texts_of(1), compute, lambda *_: None)
    assert encoder.encode("m", texts_of(2), compute, lambda *_: None).lengths.tolist() == [2]
    encoder.close()


def test_speeds_of_old_models_are_forgotten():
    encoder, compute = SharedEncoder(), Recorded()
    compute.may_go_on.set()
    for number in range(100):
        encoder.encode(number, texts_of(1), compute, lambda *_: None)
    assert len(encoder._speeds) <= 64
    assert 99 in encoder._speeds and 0 not in encoder._speeds
    encoder.close()

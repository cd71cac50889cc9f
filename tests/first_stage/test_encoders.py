"""Single vectors of token embeddings: what they estimate, that they are the same again, and their files."""

import json

import numpy as np
import pytest

from mlx_colbert.errors import InputError, ModelMismatchError, ShapeError, TargetExistsError
from mlx_colbert.first_stage.lemur import Lemur, LemurSettings
from mlx_colbert.first_stage.muvera import Muvera, MuveraSettings
from mlx_colbert.first_stage.two_stage import TwoStage, sample_passages
from mlx_colbert.index import Index
from mlx_colbert.kernels import get_search_ops
from mlx_colbert.types import TokenEmbeddings

DIM = 16
SMALL = LemurSettings(n_features=256, n_sampled=2048)


def texts(seed, n, n_rows=(3, 9), *, centre=0.0, topics=None):
    """Texts of random unit vectors, around a common direction if there is a centre."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*n_rows, n)
    rows = rng.standard_normal((int(lengths.sum()), DIM))
    if topics is not None:
        rows = topics[rng.integers(0, len(topics), len(rows))] + 0.15 * rows
    rows[:, 0] += centre
    return TokenEmbeddings((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), lengths)


@pytest.fixture
def topics():
    return np.random.default_rng(9).standard_normal((60, DIM))


def maxsim(queries, documents):
    return get_search_ops("numpy").maxsim(queries, documents)


def recall(scores, exact, n, k=10):
    best, found = np.argsort(-exact, 1)[:, :k], np.argsort(-scores, 1)[:, :n]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(best, found, strict=True)])


def one_encoding(muvera, rows, *, is_query):
    """An encoding by the description of the method, one partition after the other."""
    n, n_planes, size = (
        getattr(muvera.settings, name) for name in ("n_repetitions", "n_planes", "n_components")
    )
    rows = rows - muvera.centre
    cells = []
    for repetition in range(n):
        planes = muvera._planes[:, repetition * n_planes : (repetition + 1) * n_planes]
        projection = muvera._projections[:, repetition * size : (repetition + 1) * size]
        sides = [[bool(row @ plane > 0) for plane in planes.T] for row in rows]
        for partition in range(2**n_planes):
            wanted = [bool(partition >> bit & 1) for bit in range(n_planes)]
            chosen = [row for row, own in zip(rows, sides, strict=True) if own == wanted]
            if is_query:
                vector = np.sum(chosen, axis=0) / n if chosen else np.zeros(DIM)
            elif chosen:
                vector = np.mean(chosen, axis=0)
            else:
                distances = [sum(a != b for a, b in zip(own, wanted, strict=True)) for own in sides]
                vector = rows[int(np.argmin(distances))]
            cells.append(vector @ projection)
    return np.concatenate(cells)


@pytest.mark.parametrize("size", [4, DIM])
def test_a_muvera_encoding_is_that_of_the_description(size):
    documents, queries = texts(1, 5, centre=2), texts(2, 4, centre=2)
    muvera = Muvera.fit(documents, MuveraSettings(3, 3, size))
    encoded, asked = muvera.encode_document(documents), muvera.encode_query(queries)
    assert encoded.shape == (5, muvera.size) == (5, 3 * 8 * size)
    for number in range(4):
        np.testing.assert_allclose(
            encoded[number], one_encoding(muvera, documents[number], is_query=False), atol=1e-5
        )
        np.testing.assert_allclose(
            asked[number], one_encoding(muvera, queries[number], is_query=True), atol=1e-5
        )


def test_the_estimate_of_texts_of_one_vector_is_their_similarity():
    """Each partition of the passage has its vector, so only the projection is random."""
    documents, queries = texts(1, 6, (1, 2)), texts(2, 5, (1, 2))
    exact = maxsim(queries, documents)
    muvera = Muvera(MuveraSettings(2, 3, DIM), np.zeros(DIM))
    np.testing.assert_allclose(
        muvera.encode_query(queries) @ muvera.encode_document(documents).T, exact, atol=1e-5
    )


def test_the_projection_has_no_bias():
    """With many repetitions, the estimate is that of the same partitions without a projection."""
    documents, queries = texts(1, 6, (1, 2)), texts(2, 5, (1, 2))
    muvera = Muvera(MuveraSettings(4000, 1, 2), np.zeros(DIM))
    estimates = muvera.encode_query(queries) @ muvera.encode_document(documents).T
    # The standard deviation of one repetition is about 1/√2, of the mean of 4,000 about 0.011.
    np.testing.assert_allclose(estimates, maxsim(queries, documents), atol=0.06)


def test_estimates_come_nearer_to_maxsim_with_more_planes(topics):
    documents, queries = texts(1, 60, topics=topics), texts(2, 20, topics=topics)
    exact = maxsim(queries, documents)
    errors = []
    for n_planes in (0, 3, 8):
        muvera = Muvera(MuveraSettings(20, n_planes, DIM), np.zeros(DIM))
        estimates = muvera.encode_query(queries) @ muvera.encode_document(documents).T
        assert (estimates <= exact + 1e-3).all()
        errors.append(np.abs(estimates - exact).mean())
    assert errors == sorted(errors, reverse=True) and errors[2] < errors[0] / 2


def test_vectors_with_a_common_direction_need_the_centre(topics):
    documents, queries = texts(1, 300, topics=topics, centre=6), texts(2, 30, topics=topics, centre=6)
    exact, settings = maxsim(queries, documents), MuveraSettings(10, 4, 8)
    centred, plain = Muvera.fit(documents, settings), Muvera(settings, np.zeros(DIM))
    recalls = [
        recall(muvera.encode_query(queries) @ muvera.encode_document(documents).T, exact, 50)
        for muvera in (centred, plain)
    ]
    assert recalls[0] > recalls[1] + 0.2


def test_lemur_estimates_differences_of_maxsim(topics, backend):
    documents, queries = texts(1, 300, topics=topics, centre=2), texts(2, 40, topics=topics, centre=2)
    lemur = Lemur.fit(documents, texts(3, 200, topics=topics, centre=2), SMALL, backend=backend)
    estimates, exact = (
        lemur.encode_query(queries) @ lemur.encode_document(documents).T,
        maxsim(queries, documents),
    )
    left, right = (values - values.mean(axis=1, keepdims=True) for values in (estimates, exact))
    assert np.square(left - right).mean() < 0.05 * np.square(right).mean()
    assert recall(estimates, exact, 20) > 0.95


def test_lemur_needs_no_queries(topics):
    documents, queries = texts(1, 300, topics=topics), texts(2, 40, topics=topics)
    lemur = Lemur.fit(documents, settings=SMALL, backend="numpy")
    scores = lemur.encode_query(queries) @ lemur.encode_document(documents).T
    assert recall(scores, maxsim(queries, documents), 30) > 0.9


def test_a_new_passage_has_the_vector_that_it_would_have_with_all_others(topics):
    documents = texts(1, 50, topics=topics)
    for encoder in (Muvera.fit(documents), Lemur.fit(documents, settings=SMALL, backend="numpy")):
        together, alone = encoder.encode_document(documents)[30:31], encoder.encode_document(documents[30:31])
        np.testing.assert_allclose(together, alone, atol=1e-3 * np.abs(together).max())


@pytest.mark.parametrize("make", [Muvera.fit, lambda d, **o: Lemur.fit(d, settings=SMALL, **o)])
def test_a_saved_encoder_gives_the_same_vectors(tmp_path, make):
    documents = texts(1, 20)
    encoder = make(documents, fingerprint="f1")
    encoder.save(tmp_path / "encoder.npz")
    again = type(encoder).load(tmp_path / "encoder.npz")
    assert (again.settings, again.fingerprint, again.size) == (encoder.settings, "f1", encoder.size)
    for encode in ("encode_query", "encode_document"):
        ours, theirs, refitted = (
            getattr(one, encode)(documents) for one in (encoder, again, make(documents))
        )
        assert (ours == theirs).all() and (ours == refitted).all()
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.npz"]


def test_a_file_that_is_not_an_encoder_is_refused(tmp_path):
    path = tmp_path / "encoder.npz"
    Muvera.fit(texts(1, 3)).save(path)
    with pytest.raises(InputError, match="kind 'muvera', version 1, not 'lemur'"):
        Lemur.load(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "object.npz", header=np.array({"a": 1}, object), centre=np.ones(3))
    np.savez(
        tmp_path / "other.npz",
        header=np.array(json.dumps({"kind": "muvera", "version": 1, "fingerprint": None})),
    )
    path.write_bytes(whole[: len(whole) // 2])
    for name in ("object.npz", "other.npz", "encoder.npz"):
        with pytest.raises(InputError, match="not the file of an encoder"):
            Muvera.load(tmp_path / name)


def test_arguments_that_cannot_be_used_are_refused():
    documents = texts(1, 3)
    for encoder in (Muvera.fit(documents), Lemur.fit(documents, settings=SMALL)):
        with pytest.raises(ShapeError, match="have 3 components"):
            encoder.encode_query(TokenEmbeddings(np.ones((2, 3), np.float32), np.array([2])))
        with pytest.raises(InputError, match="passage 1 has no"):
            encoder.encode_document(TokenEmbeddings(np.ones((2, DIM), np.float32), np.array([2, 0])))
    for settings in ({"n_planes": 11}, {"n_components": 0}, {"n_repetitions": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            MuveraSettings(**settings)
    assert Muvera.fit(documents, MuveraSettings(n_components=99)).settings.n_components == DIM
    with pytest.raises(InputError, match="no passages"):
        Lemur.fit(documents[:0])
    with pytest.raises(ShapeError):
        Lemur.fit(documents, TokenEmbeddings(np.ones((2, 3), np.float32), np.array([2])))


@pytest.fixture
def index(tmp_path, topics):
    documents = texts(1, 200, topics=topics)
    with Index.create(tmp_path / "index", DIM, model={"source": "m", "fingerprint": "f1"}) as index:
        index.add([f"d{number}" for number in range(200)], documents)
        yield index


def test_a_search_in_two_stages_finds_what_the_index_finds(index, topics, backend):
    queries = texts(2, 10, topics=topics)
    lemur = Lemur.fit(sample_passages(index, 100), settings=SMALL, fingerprint="f1", backend=backend)
    stages = TwoStage(index, lemur, backend=backend)
    assert stages.update() == 200 and stages.update() == 0
    hits = stages.search(queries, 5, n_candidates=200)
    assert hits == index.search(queries, 5)
    few = stages.search(queries, 5, n_candidates=40)
    same = [len({h.doc_id for h in a} & {h.doc_id for h in b}) for a, b in zip(hits, few, strict=True)]
    assert np.mean(same) > 4.5


def test_new_and_deleted_passages_are_followed(index, topics):
    stages = TwoStage(index, Muvera.fit(sample_passages(index)))
    assert stages.candidates(texts(2, 1), 3) == [[]] and stages.search(texts(2, 1)) == [[]]
    stages.update()
    new = texts(5, 1, topics=topics)
    index.add(["new"], new)
    index.delete(["d0", "d7"])
    assert stages.update() == 1
    assert set(stages.doc_ids) == set(index.ids()) and len(stages.vectors) == len(index)
    assert stages.search(new, 1, n_candidates=20)[0][0].doc_id == "new"


def replaced(index, stages, doc_id, embeddings, text=None):
    """How many passages are encoded after a replacement, and whether the new vector is that of the passage."""
    index.upsert([doc_id], embeddings, [text])
    n_encoded = stages.update()
    vector = stages.vectors[stages.doc_ids.index(doc_id)]
    expected = stages.encoder.encode_document(index.embeddings([doc_id]))[0].astype(np.float16)
    return n_encoded, bool((vector == expected).all())


@pytest.mark.parametrize("doc_id", ["d3", "d199"])
def test_a_passage_that_is_replaced_gets_another_vector(tmp_path, index, topics, doc_id):
    stages = TwoStage(index, Muvera.fit(sample_passages(index)))
    stages.update()
    assert replaced(index, stages, doc_id, texts(5, 1, topics=topics)) == (1, True)
    assert replaced(index, stages, doc_id, texts(6, 1, topics=topics), "tea") == (1, True)
    new = texts(7, 1, topics=topics)
    assert replaced(index, stages, doc_id, new, "coffee") == (1, True)
    assert stages.search(new, 1, n_candidates=20)[0][0].doc_id == doc_id
    assert replaced(index, stages, doc_id, new, "coffee") == (0, True)
    assert len(stages.doc_ids) == len(set(stages.doc_ids)) == len(stages.vectors) == 200


def test_new_metadata_and_a_compaction_encode_nothing(index, topics):
    stages = TwoStage(index, Muvera.fit(sample_passages(index)))
    index.upsert(index.ids(), index.embeddings(index.ids()), [f"text {i}" for i in range(200)])
    stages.update()
    index.update_metadata(["d3"], [{"n": 1}])
    index.compact()
    assert stages.update() == 0
    index.delete(["d3"])
    assert stages.update() == 0 and "d3" not in stages.doc_ids and len(stages.vectors) == 199


def test_a_replacement_after_saving_is_seen_after_opening(tmp_path, index, topics):
    stages = TwoStage(index, Muvera.fit(sample_passages(index)))
    stages.update()
    stages.save(tmp_path / "vectors")
    again = TwoStage.open(tmp_path / "vectors", index, stages.encoder)
    assert again.update() == 0
    assert replaced(index, again, "d3", texts(5, 1, topics=topics)) == (1, True)
    np.save(tmp_path / "vectors" / "digests.npy", np.zeros(3, np.uint64))
    with pytest.raises(InputError, match="has digests of the shape"):
        TwoStage.open(tmp_path / "vectors", index, stages.encoder)


def test_saved_vectors_are_mapped_and_find_the_same(tmp_path, index, topics):
    stages = TwoStage(index, Muvera.fit(sample_passages(index)))
    stages.update()
    stages.save(tmp_path / "vectors")
    again = TwoStage.open(tmp_path / "vectors", index, stages.encoder)
    queries = texts(2, 4, topics=topics)
    assert again.search(queries) == stages.search(queries) and isinstance(again.vectors, np.memmap)
    with pytest.raises(TargetExistsError):
        stages.save(tmp_path / "vectors")
    other = Muvera.fit(sample_passages(index), MuveraSettings(1, 1, 4))
    with pytest.raises(InputError, match="has vectors of the shape"):
        TwoStage.open(tmp_path / "vectors", index, other)


def test_the_vectors_of_another_model_are_refused(index):
    with pytest.raises(ModelMismatchError, match="f1"):
        TwoStage(index, Muvera.fit(sample_passages(index), fingerprint="f2"))
    with pytest.raises(InputError, match="n_candidates is 5, but k is 10"):
        TwoStage(index, Muvera.fit(sample_passages(index))).search(texts(2, 1), 10, n_candidates=5)

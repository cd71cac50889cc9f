"""LlamaIndex: the retriever and the node postprocessor, also in a query engine."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("llama_index.core", reason="the extra [llama-index] is not installed")

from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from mlx_colbert import errors
from mlx_colbert.integrations.llama_index import ColBERTReranker, ColBERTRetriever, llama_index_filter


def ids(nodes):
    return [node.node.node_id for node in nodes]


def test_retriever_finds_what_ours_finds_with_ids_scores_and_metadata(retriever):
    found = ColBERTRetriever(retriever, similarity_top_k=2).retrieve("how long to steep tea")

    hits = retriever.search("how long to steep tea", 2)
    assert [(node.node.node_id, node.score, node.text, node.metadata) for node in found] == [
        (hit.doc_id, hit.score, hit.text, hit.metadata) for hit in hits
    ]


def test_asynchronous_call_gives_the_same(retriever):
    llama = ColBERTRetriever(retriever)

    assert asyncio.run(llama.aretrieve("tea")) == llama.retrieve("tea")


def test_nodes_go_in_and_come_back_with_their_ids_and_metadata(tmp_path, model):
    llama = ColBERTRetriever(tmp_path / "new", model=model, settings={"nbits": 2})
    nodes = [
        TextNode(id_="a", text="Tea is steeped.", metadata={"year": 2020, "tags": ["hot"]}),
        TextNode(id_="b", text="Bees dance."),
    ]

    assert llama.add(nodes) == llama.add(nodes) == ["a", "b"]
    found = {node.node.node_id: node for node in llama.retrieve("tea")}

    assert {key: (node.text, node.metadata) for key, node in found.items()} == {
        node.node_id: (node.text, node.metadata) for node in nodes
    }
    assert llama.add([]) == []
    llama._searched.close()


def test_document_of_a_node_is_kept_filtered_and_deleted(tmp_path, model):
    llama = ColBERTRetriever(tmp_path / "new", model=model)
    texts = {"a1": "Tea is steeped.", "a2": "It is hot.", "b1": "Bees dance.", "alone": "Coal is black."}
    nodes = [TextNode(id_=node_id, text=text) for node_id, text in texts.items()]
    for node in nodes[:3]:
        document = RelatedNodeInfo(node_id=node.node_id[0])
        node.relationships[NodeRelationship.SOURCE] = document
    llama.add(nodes)

    found = {node.node.node_id: node.node for node in llama.retrieve("tea")}
    assert {key: node.source_node and node.source_node.node_id for key, node in found.items()} == {
        "a1": "a",
        "a2": "a",
        "b1": "b",
        "alone": None,
    }
    assert [node.metadata for node in found.values()] == [{}] * 4
    llama.filters = MetadataFilters(filters=[of(FilterOperator.EQ, "b", "ref_doc_id")])
    assert ids(llama.retrieve("tea")) == ["b1"]
    llama.filters = None

    llama.delete_ref_doc("a")
    assert set(ids(llama.retrieve("tea"))) == {"b1", "alone"}
    llama.delete_nodes(["alone", "unknown"])
    assert ids(llama.retrieve("tea")) == ["b1"]
    llama._searched.close()


def of(operator, value, key="year"):
    return MetadataFilter(key=key, value=value, operator=operator)


OPERATORS = [
    (of(FilterOperator.EQ, "books", "topic"), {"novel"}),
    (of(FilterOperator.NE, "books", "topic"), {"tea", "bees", "coal"}),
    (of(FilterOperator.GT, 2019), {"tea"}),
    (of(FilterOperator.GTE, 2019), {"tea", "coal"}),
    (of(FilterOperator.LT, 2019), {"novel"}),
    (of(FilterOperator.LTE, 2019), {"novel", "coal"}),
    (of(FilterOperator.IN, [1851, 2020]), {"novel", "tea"}),
    (of(FilterOperator.NIN, [1851, 2020]), {"bees", "coal"}),
    (of(FilterOperator.CONTAINS, "hot", "tags"), {"tea"}),
    (of(FilterOperator.ANY, ["hot", "cold"], "tags"), {"tea"}),
    (of(FilterOperator.ALL, ["hot", "cold"], "tags"), set()),
    (of(FilterOperator.TEXT_MATCH, "rink", "topic"), {"tea"}),
    (of(FilterOperator.TEXT_MATCH, "*", "topic"), set()),
]


# A set has no order, so it is no part of an id: the workers of xdist must agree on the ids.
@pytest.mark.parametrize(
    ("filter", "expected"),
    OPERATORS,
    ids=[f"{filter.operator.value} {filter.value}" for filter, _ in OPERATORS],
)
def test_filter_operators(retriever, filter, expected):
    llama = ColBERTRetriever(retriever, filters=MetadataFilters(filters=[filter]))

    assert set(ids(llama.retrieve("tea"))) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (FilterCondition.AND, {"tea"}),
        (FilterCondition.OR, {"tea", "coal"}),
        (FilterCondition.NOT, {"novel", "bees", "coal"}),
    ],
)
def test_filters_are_joined_and_nested(retriever, condition, expected):
    inner = MetadataFilters(filters=[of(FilterOperator.EQ, "drinks", "topic")])
    filters = MetadataFilters(filters=[of(FilterOperator.GTE, 2019), inner], condition=condition)

    assert set(ids(ColBERTRetriever(retriever, filters=filters).retrieve("tea"))) == expected


def test_own_filters_work_as_well(retriever):
    assert ids(ColBERTRetriever(retriever, filters="year < 1900").retrieve("tea")) == ["novel"]
    assert ids(ColBERTRetriever(retriever, filters={"topic": "books"}).retrieve("tea")) == ["novel"]
    assert llama_index_filter(MetadataFilters(filters=[])) is None


def test_reranker_orders_nodes_and_keeps_the_best(model):
    nodes = [
        NodeWithScore(node=TextNode(id_="coal", text="Coal is black."), score=0.9),
        NodeWithScore(node=TextNode(id_="bees", text="Bees dance to show the way."), score=0.1),
        NodeWithScore(node=TextNode(id_="tea", text="Tea is steeped."), score=0.0),
    ]
    reranker = ColBERTReranker(model, top_n=2, keep_retrieval_score=True)

    best = reranker.postprocess_nodes(nodes, query_str="how do bees dance")

    expected = model.rerank("how do bees dance", [node.text for node in nodes], 2)
    assert [(node.node.node_id, node.score) for node in best] == [
        (nodes[int(hit.doc_id)].node.node_id, hit.score) for hit in expected
    ]
    assert {node.node.node_id: node.metadata["retrieval_score"] for node in best}.items() <= {
        node.node.node_id: node.score for node in nodes
    }.items()
    assert [node.score for node in nodes] == [0.9, 0.1, 0.0] and nodes[0].metadata == {}
    assert asyncio.run(reranker.apostprocess_nodes(nodes, query_str="how do bees dance")) == best
    assert reranker.postprocess_nodes([], query_str="why") == []


def test_reranker_is_written_as_a_dict_and_read_again(model_folder):
    reranker = ColBERTReranker(model_folder, top_n=2)

    again = ColBERTReranker.from_dict(reranker.to_dict())

    assert again.to_dict() == reranker.to_dict()
    assert again.model == str(model_folder) and again.top_n == 2


def test_query_engine_uses_both_and_callbacks_see_the_search(retriever, model):
    told = LlamaDebugHandler(print_trace_on_end=False)
    engine = RetrieverQueryEngine.from_args(
        ColBERTRetriever(retriever, callback_manager=CallbackManager([told])),
        llm=MockLLM(),
        node_postprocessors=[ColBERTReranker(model, top_n=2)],
    )

    answer = engine.query("how do bees dance")

    assert len(answer.source_nodes) == 2
    assert len(told.get_event_pairs(CBEventType.RETRIEVE)) == 1


def test_collection_is_a_source_with_file_and_line(collection, tmp_path):
    llama = ColBERTRetriever(collections=[collection], similarity_top_k=1)

    (found,) = llama.retrieve("how do bees dance")

    path = (tmp_path / "notes" / "bees.md").resolve()
    assert found.metadata["location"].startswith(f"{path}:")
    assert found.node.ref_doc_id == "notes/bees.md"
    with pytest.raises(errors.InputError, match="Change its files"):
        llama.add([TextNode(text="a")])
    llama._searched.close()


def test_errors_of_users_are_ours(tmp_path, retriever, model):
    with pytest.raises(errors.InputError, match="index=FOLDER, or collections"):
        ColBERTRetriever()
    with pytest.raises(errors.IndexNotFoundError):
        ColBERTRetriever(tmp_path / "none").retrieve("why")
    with pytest.raises(errors.InputError, match="there is no query"):
        ColBERTReranker(model).postprocess_nodes([])
    for condition in (
        of(FilterOperator.IS_EMPTY, None),
        of(FilterOperator.EQ, None),
        of(FilterOperator.IN, "books"),
        of(FilterOperator.CONTAINS, ["a"]),
        of(FilterOperator.TEXT_MATCH_INSENSITIVE, "a"),
    ):
        with pytest.raises(errors.InputError, match="'year'"):
            llama_index_filter(MetadataFilters(filters=[condition]))

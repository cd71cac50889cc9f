"""The OpenAPI document is true: schemathesis makes requests of it, and compares the answers with it."""

import itertools

import pytest
from hypothesis import HealthCheck, Phase, given, settings

# Without a language model they answer 502.
ANSWERING = ("/ask", "/v1/chat/completions")


@pytest.mark.slow
def test_answers_are_as_the_document_says(server):
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    true = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    server.post("/collections", name="api")
    server.post("/collections/api/documents", documents=[{"id": "tea", "text": "Steep the leaves."}])
    # Random names would be those of nothing.
    known = {
        "name": itertools.cycle(["notes", "api", None]),
        "doc_id": itertools.cycle(["tea", server.search("tea")["hits"][0]["doc_id"], None]),
    }
    headers = {"host": "localhost"}
    document = schemathesis.openapi.from_asgi("/openapi.json", server.client.app, headers=headers)
    operations = [found.ok() for found in document.get_all_operations()]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    assert len(operations) >= 30

    def check(operation, mode):
        expected = [*true, *([] if operation.path in ANSWERING else [not_a_server_error])]

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=10,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        )
        def answered(case):
            for parameter, values in known.items():
                if parameter in (case.path_parameters or {}) and (value := next(values)) is not None:
                    case.path_parameters[parameter] = value
            case.validate_response(case.call(headers=headers), checks=expected)

        answered()

    # What is deleted cannot be asked for.
    for operation in sorted(operations, key=lambda found: found.method == "delete"):
        for mode in modes if operation.method == "post" else modes[:1]:
            check(operation, mode)

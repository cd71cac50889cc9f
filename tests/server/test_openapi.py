"""The OpenAPI document is true: schemathesis makes requests of it, and compares the answers with it."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings


@pytest.mark.slow
def test_answers_are_as_the_document_says(client):
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    expected = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    headers = {"host": "localhost"}
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=headers)
    operations = [found.ok() for found in document.get_all_operations()]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    assert len(operations) >= 10
    for operation in operations:
        for mode in modes if operation.method == "post" else modes[:1]:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=10,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            )
            def answered(case):
                case.validate_response(case.call(headers=headers), checks=expected)

            answered()

"""Who may ask."""

import pytest

from mlx_colbert.errors import ServerError
from mlx_colbert.server.security import host_name
from mlx_colbert.server.serving import listening
from mlx_colbert.server.settings import Settings

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:8765", "127.0.0.1"),
        ("LocalHost.", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", None),
        ("[::1", None),
        ("[::g]", None),
        ("[fe80::1%25eth0]", None),
        ("a b", None),
        ("a/b", None),
        ("user@localhost", None),
        ("localhost:", None),
        ("localhost:x", None),
        ("localhost:8765:8765", None),
        ("", None),
        (".", None),
        ("localhóst", None),
    ],
)
def test_host_header_is_read_strictly(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("LOCALHOST.:8765", 200),
        ("[::1]:8765", 200),
        ("notes.home", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.7", 403),
        ("0.0.0.0", 403),
        ("localhost@evil.example", 403),
    ],
)
def test_only_names_of_this_server_are_answered(make_client, host, status):
    client = make_client(allowed_hosts=("Notes.Home.",))
    assert client.get("/health", headers={"host": host}).status_code == status


def test_server_for_all_addresses_answers_to_any_address_and_no_strange_name(make_client):
    client = make_client(host="0.0.0.0", api_key=KEY)
    assert client.get("/health", headers={"host": "192.168.1.7:8765"}).status_code == 200
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8765"}, 200),
        ({"origin": "https://127.0.0.1:8765"}, 200),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "file://127.0.0.1:8765"}, 403),
        ({"origin": "chrome-extension://127.0.0.1:8765"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
    ],
)
def test_page_of_another_site_gets_nothing(client, headers, status):
    assert client.get("/metrics", headers=headers).status_code == status


def test_form_of_another_site_is_refused_even_if_it_hides_its_origin(client):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.post("/collections/notes/sync", headers=headers).status_code == 403


def test_each_of_several_origins_must_be_ours(client):
    origins = [("origin", "http://127.0.0.1:8765"), ("origin", "http://evil.example")]
    assert client.get("/metrics", headers=origins).status_code == 403


def test_no_answer_allows_another_site_to_read_it(client):
    refused = client.options(
        "/rerank", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
    )
    assert refused.status_code == 403
    for answer in (refused, client.get("/health"), client.get("/nothing"), client.get("/")):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "\xff" * 16}, 401),
    ],
)
def test_with_a_key_each_request_must_have_it(make_client, headers, status):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = make_client(api_key=KEY).get("/v1/models", headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.headers["www-authenticate"] == "Bearer"


def test_page_and_health_need_no_key(make_client):
    client = make_client(api_key=KEY)
    assert {client.get(path).status_code for path in ("/", "/web/index.html", "/health")} == {200}
    assert {client.get(path).status_code for path in ("/metrics", "/openapi.json", "/nothing")} == {401}


def test_document_says_how_to_send_the_key(make_client):
    document = make_client(api_key=KEY).get("/openapi.json", headers={"x-api-key": KEY}).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["components"]["securitySchemes"].keys() == {"bearer", "header"}
    assert "security" not in make_client().get("/openapi.json").json()


def test_key_is_not_shown():
    assert KEY not in repr(Settings(api_key=KEY))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_other_machines_are_served_only_with_a_key(host):
    with pytest.raises(ServerError, match="a key is needed"):
        listening(Settings(host=host, port=0))

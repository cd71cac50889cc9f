"""The application as a whole."""

from __future__ import annotations


def test_server_says_that_it_lives(client):
    assert client.get("/health").json() == {"status": "ok"}


def test_page_is_at_the_root(client):
    assert "mlx-colbert" in client.get("/").text


def test_unknown_path_is_a_problem(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404

"""Every request in the page about the server is answered."""

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def requests():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[:1] == ["curl"]:
            yield words[1:]


def sent(client, words):
    method, url, body, headers = None, None, None, {}
    words = iter(words)
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word in ("-d", "--data-binary"):
            body = next(words)
        elif word == "-X":
            method = next(words)
        else:
            url = word
    return client.request(method or ("GET" if body is None else "POST"), url, content=body, headers=headers)


def test_requests_in_the_page_are_answered(client):
    found = list(requests())
    assert len(found) >= 8
    for words in found:
        answer = sent(client, words)
        assert answer.status_code < 300, (words, answer.text)

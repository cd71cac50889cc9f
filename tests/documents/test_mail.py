"""E-mail: one message, many messages, and messages that are an attack."""

import pytest
from file_kinds import mixed, passages, texts

LETTER = "From: Ann Müller <ann@example.org>\nTo: bob@example.org\nDate: Fri, 31 May 2024 09:30:00 +0000"


def test_message_is_read_with_its_subject_as_title():
    assert mixed("letter.eml") == [
        (
            f"{LETTER}\n\nBring the café cups.\n\nSee you!\n\nAttached: menu.pdf",
            {"lines": [1, 29], "headings": ["Tea 🍵"]},
        )
    ]


def test_each_message_of_an_mbox_file_says_its_lines():
    assert mixed("archive.mbox") == [
        (
            "From: ann@example.org\n\nHello Bob.\nFrom now on we write.",
            {"lines": [1, 7], "headings": ["First"]},
        ),
        ("From: bob@example.org\n\nHi\n\nHello Ann.", {"lines": [8, 14], "headings": ["Second"]}),
    ]


def test_headers_are_metadata():
    (found,) = passages(
        "a.eml", "From: ann@x.org\nDate: Fri, 31 May 2024 09:30:00 +0200\nSubject: Tea\n\nHi.\n"
    )
    assert found.metadata == {"from": "ann@x.org", "subject": "Tea", "date": "2024-05-31T09:30:00+02:00"}


@pytest.mark.parametrize(
    "header",
    [
        "Subject: =?x?b?AA==?=",
        "Subject: =?utf-8?b?A?=",
        "Date: 99 Foo 1",
        "Content-Type: text/plain; charset=nope",
        "Content-Type: ///",
        "Content-Transfer-Encoding: base64",
        "Subject: \u00ff",
        "From: <<<>>>",
    ],
)
def test_wrong_header_does_no_harm(header):
    (found,) = passages("a.eml", f"X: y\n{header}\n\nHello.\n".encode("latin-1"))
    assert "Hello" in found.text or "base64" in header


@pytest.mark.parametrize("depth", [10, 5000])
def test_nested_parts_do_no_harm(depth):
    heads = "".join(f'Content-Type: multipart/mixed; boundary="{n}"\n\n--{n}\n' for n in range(depth))
    found = texts("a.eml", f"Subject: x\n{heads}Content-Type: text/plain\n\nDeep.\n") if depth < 100 else None
    if depth < 100:
        assert found == ["Deep."]
    else:
        try:
            texts("a.eml", f"Subject: x\n{heads}\nDeep.\n")
        except Exception as error:
            assert "a.eml: is damaged" in str(error)


def test_ten_thousand_parts_are_read_in_part():
    parts = "".join(f"--x\nContent-Disposition: attachment; filename=f{n}\n\nno\n" for n in range(10_000))
    mail = f'Subject: many\nContent-Type: multipart/mixed; boundary="x"\n\n--x\n\nHello.\n{parts}--x--\n'
    found = " ".join(texts("a.eml", mail))
    assert found.startswith("Hello.") and "f0, f1," in found and "more" in found and len(found) < 2000


@pytest.mark.parametrize("value", ["=?utf-8?q?a?= ", "<((", "1 ", ","])
@pytest.mark.parametrize("header", ["Subject", "From", "Date"])
def test_long_header_takes_a_time_that_grows_with_its_length(header, value):
    assert texts("a.eml", f"{header}: {value * 100_000}\n\nHello.\n")

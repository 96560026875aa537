"""Text of others: what of it people see, and what nobody may see."""

import pytest

from dimo_core.texts import is_masked, masked, printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red seven\nabove\r\n\tblue", "a red seven above blue"),
        ("a\x85b\u2028c\u2029d\x0be\x1cf", "a b c d e f"),
        ("\x1b[31mred\x07\x00", r"\x1b[31mred\x07\x00"),
        ("half \ud800, back \u202e, gone \udc80", r"half \ud800, back \u202e, gone \udc80"),
        ("naïve 日本 👩\u200d🔬  two  spaces", "naïve 日本 👩\u200d🔬  two  spaces"),
    ],
)
def test_any_text_is_one_line_of_signs(text, expected):
    assert expected == printable(text)
    printable(text).encode()


def test_of_a_long_text_both_ends_are_left():
    text = printable("a" * 10_000_000 + "z", 60)
    assert ("aaa", "aaz") == (text[:3], text[-3:])
    assert "(10,000,001 characters)" in text
    assert len(text) < 100


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("http://alice:PW@host/w.pt", "http://***@host/w.pt"),
        ("s3://KEY:P@SS@bucket/a", "s3://***@bucket/a"),
        ("zip://a::https://u:PW@h/a.zip", "zip://a::https://***@h/a.zip"),
        ("https://h/p?X-Amz-Date=1&X-Amz-Signature=SIG", "https://h/p?X-Amz-Date=***&X-Amz-Signature=***"),
        ("https://h/p?sv=1&sig=S%3D&se=2", "https://h/p?sv=1&sig=***&se=2"),
        ("https://h/p?a=1&access_token=T#x", "https://h/p?a=1&access_token=***#x"),
        ("https://h/p?a=1&amp;token=T", "https://h/p?a=1&amp;token=***"),
        ("https://h/p?Signature=S&Key-Pair-Id=K&Policy=P", "https://h/p?Signature=***&Key-Pair-Id=***&Policy=***"),
        ("cannot open 'https://u:PW@h/?api_key=K': 401", "cannot open 'https://***@h/?api_key=***': 401"),
    ],
)  # fmt: skip
def test_secrets_of_urls_are_left_out(url, left):
    assert left == masked(url) == masked(left) == shown(url)
    assert (False, True) == (is_masked(url), is_masked(left))
    assert {"a": [left, 1, None], left: True} == masked({"a": (url, 1, None), url: True})
    assert is_masked({"a": [{"b": left}]})


@pytest.mark.parametrize(
    "text",
    [
        "hf://owner/name@main/w.pt",
        "https://h/p?design=1&tokens=2&author=me",
        "me@host",
        "a=b",
        "s3://b/c@d",
        "",
    ],
)
def test_other_urls_and_texts_are_left_alone(text):
    assert text == masked(text)
    assert not is_masked(text)

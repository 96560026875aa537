"""The page of ``dimo demo`` over plain http: what it answers, what it refuses, one draw at a time."""

import http.client
import json
import socket
import threading
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dimo_core.demo.server import Server
from dimo_core.errors import NumericalError, UsageError
from dimo_core.jobs.demo import Wish
from dimo_core.limits import REQUEST


@pytest.fixture
def ask(server):
    def request(method="POST", path="/draw", body=b"", **headers):
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        client.request(method, path, data, sent)
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()

    return request


def refused(answer, status=400):
    found, headers, body = answer
    assert (status, "application/json") == (found, headers["Content-Type"])
    return json.loads(body)["error"]


def test_samples_are_pictures_with_their_conditions_and_times(ask, drawer):
    status, _, body = ask(body={"condition": "even", "count": 2, "seed": 7, "who": "teacher"})
    data = json.loads(body)
    assert 200 == status
    assert [Wish(who="teacher", condition="even", seed=7, count=2)] == drawer.wishes
    pixels = [np.asarray(Image.open(BytesIO(b64decode(image)))) for image in data.pop("images")]
    assert [[[7, 7], [7, 7]]] * 2 == [picture.tolist() for picture in pixels]
    assert ["even"] * 2 == data.pop("names")
    assert {"title": "teacher", "cost": "1 forward pass", "seconds": 0.5, "lines": []} == data


def test_text_is_lines(ask, drawer):
    drawer.lines = ("In the <b>beginning</b>\n",)
    data = json.loads(ask(body={"count": 1})[2])
    assert (["In the <b>beginning</b>\n"], []) == (data["lines"], data["images"])


def test_the_page_escapes_what_it_shows_and_allows_one_script(ask):
    status, headers, body = ask("GET", "/?condition=%3Cscript%3E")
    page = body.decode()
    assert 200 == status
    assert 1 == page.count("<script")
    assert "alert(1)</script>" not in page
    assert 4 == page.count("&lt;script&gt;alert(1)")  # title, heading, and a class with its name
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    nonce = policy["script-src"].strip("'").removeprefix("nonce-")
    assert f'<script nonce="{nonce}">' in page
    sources = {"default-src": "'none'", "img-src": "data:", "connect-src": "'self'"}
    assert sources == {name: policy[name] for name in sources}
    assert "://" not in page.replace("http://www.w3.org", "")  # nothing comes from elsewhere
    assert nonce not in ask("GET", "/")[2].decode()


@pytest.mark.parametrize("kind", ["label", "text"])
def test_conditions_are_chosen_or_written(ask, drawer, kind):
    drawer.kind = kind
    page = ask("GET", "/")[2].decode()
    assert (kind == "label", kind == "text") == ("<select" in page, "<textarea" in page)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 5000, "no JSON"),
        ([], "a list was given"),
        ({"file": "/etc/passwd"}, "'file' was given"),
        ({"who": "somebody"}, "'generator' or 'teacher', not 'somebody'"),
        ({"condition": 3}, "a text of at most 4,000 characters"),
        ({"condition": "x" * 4001}, "a text of at most 4,000 characters"),
        ({"seed": -1}, "from 0 to 9223372036854775807, not -1"),
        ({"seed": 2**63}, "from 0 to 9223372036854775807"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"seed": True}, "seed is a whole number"),
        ({"count": 0}, "count is a whole number from 1 to 64, not 0"),
        ({"count": 65}, "count is a whole number from 1 to 64, not 65"),
        ({"temperature": 0}, "above 0 and at most 100, not 0"),
        ({"temperature": "hot"}, "above 0 and at most 100, not 'hot'"),
        (b'{"temperature": NaN}', "above 0 and at most 100, not nan"),
        ({"temperature": 1e9}, "above 0 and at most 100"),
    ],
)
def test_other_wishes_are_refused_in_one_line(ask, drawer, body, named):
    assert named in refused(ask(body=body))
    assert [] == drawer.wishes


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (UsageError("unknown class 'x'"), 400, "unknown class 'x'"),
        (NumericalError("not finite"), 500, "not finite"),
        (ZeroDivisionError("of a plugin"), 500, "unexpected ZeroDivisionError: of a plugin"),
    ],
)
def test_what_fails_is_told_and_the_next_draw_works(ask, drawer, error, status, named):
    drawer.error = error
    assert named == refused(ask(body={}), status)
    drawer.error = None
    assert 200 == ask(body={})[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_hosts_and_other_pages_are_refused(ask, drawer, headers, method):
    path = "/" if method == "GET" else "/draw"
    assert "not for other hosts or pages" in refused(ask(method, path, {}, **headers), 403)
    assert [] == drawer.wishes


def test_its_own_page_may_ask_by_each_of_its_names(ask, server):
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{server.server_port}"
        assert 200 == ask(body={}, Host=host, Origin=f"http://{host}")[0]


def test_what_a_form_of_another_page_can_send_is_refused(ask, drawer):
    assert "application/json is wanted" == refused(ask(body={}, Content_Type="text/plain"), 415)
    assert [] == drawer.wishes


@pytest.mark.parametrize("size", ["", "-1", "9" * 5000, str(REQUEST + 1)])
def test_long_requests_are_not_read(ask, size):
    assert "65,536 bytes" in refused(ask(body=b"{}", Content_Length=size), 413)


@pytest.mark.parametrize(("method", "path"), [("GET", "/draw"), ("GET", "/../x"), ("POST", "/")])
def test_there_is_nothing_else(ask, method, path):
    assert "there is only / and /draw" == refused(ask(method, path), 404)


def test_one_draw_is_made_at_a_time(ask, drawer):
    first = threading.Thread(target=ask, kwargs={"body": {"condition": "wait"}})
    first.start()
    assert drawer.inside.wait(10)
    assert "one is made at a time" in refused(ask(body={}), 503)
    drawer.released.set()
    first.join()
    assert 200 == ask(body={})[0]
    assert ["wait", ""] == [wish.condition for wish in drawer.wishes]


def test_who_goes_away_stops_nothing(ask, server):
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(b"POST /draw HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
    assert 200 == ask(body={})[0]


def test_a_port_that_is_taken_is_told(server, drawer):
    with pytest.raises(UsageError, match=rf"port {server.server_port} .* --port 0 takes a free one"):
        Server(drawer, server.server_port)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"port 99999 .* --port 0"):
        Server(drawer, 99999)  # type: ignore[arg-type]

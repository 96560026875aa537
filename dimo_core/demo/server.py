"""``Server``: the page and its one request, over http, on this machine alone."""

import json
import secrets
import threading
from base64 import b64encode
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from loguru import logger

from dimo_core.errors import DimoError, UsageError
from dimo_core.files.images import image_png
from dimo_core.jobs.demo import Answer, Demonstration, Wish
from dimo_core.limits import REQUEST
from dimo_core.texts import shown

LOOPBACK = "127.0.0.1"

PATIENCE = 120.0
"""Seconds that a request waits for the one before it."""

NAMES = (LOOPBACK, "localhost")
"""Hosts by which a browser of this machine may call it. Any other name leads here by a trick (rebinding)."""


class Server(ThreadingHTTPServer):
    """Serves one demonstration, one draw at a time.

    Args:
        demonstration: What draws.
        port: Where; 0 for a free one.
        patience: Seconds that a draw waits for another one's end.

    Raises:
        UsageError: when the port cannot be had.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, demonstration: Demonstration, port: int, patience: float = PATIENCE) -> None:
        self.demonstration, self.patience = demonstration, patience
        self.drawing = threading.Lock()
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            text = f"port {port} of {LOOPBACK} cannot be had ({error}). --port 0 takes a free one."
            raise UsageError(text) from error

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def page(self) -> tuple[str, str]:
        """The page, and the nonce of its script."""
        from jinja2 import Environment

        nonce = secrets.token_urlsafe(16)
        text = (files("dimo_core.demo") / "page.html").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(text).render(facts=self.demonstration.facts(), nonce=nonce), nonce

    def answer(self, data: bytes) -> dict[str, Any]:
        """What a request for samples gets: plain data.

        Args:
            data: A wish, as JSON.

        Raises:
            UsageError: for what is no wish.
            TimeoutError: when another draw takes too long.
            DimoError: when it cannot be drawn.
        """
        try:
            given = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError("what was sent is no JSON") from error
        wish = Wish.of(given, self.demonstration.most)
        if not self.drawing.acquire(timeout=self.patience):
            raise TimeoutError("another draw takes long, and one is made at a time. Try again later.")
        try:
            return plain(self.demonstration.draw(wish))
        finally:
            self.drawing.release()

    def end(self, seconds: float = 10.0) -> None:
        """Take no more requests, and wait a while for a draw that is being made."""
        self.server_close()
        with suppress(KeyboardInterrupt):
            self.drawing.acquire(timeout=seconds)


def plain(answer: Answer) -> dict[str, Any]:
    """An answer for JSON: pictures as base64 of PNG files."""
    pictures = () if answer.images is None else answer.images
    return {
        "title": answer.title,
        "cost": answer.cost,
        "seconds": round(answer.seconds, 4),
        "names": list(answer.names),
        "images": [b64encode(image_png(image)).decode() for image in pictures],
        "lines": list(answer.lines),
    }


class Handler(BaseHTTPRequestHandler):
    """``GET /`` is the page, and ``POST /draw`` draws."""

    server: Server
    timeout = 30
    server_version, sys_version = "dimo", ""

    def do_GET(self) -> None:
        """The page."""
        if self._is_strange():
            return
        if self.path.partition("?")[0] != "/":
            return self._say(HTTPStatus.NOT_FOUND, {"error": "there is only / and /draw"})
        page, nonce = self.server.page()
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), f"'nonce-{nonce}'")

    def do_POST(self) -> None:
        """Samples."""
        if self._is_strange():
            return
        if self.path != "/draw":
            return self._say(HTTPStatus.NOT_FOUND, {"error": "there is only / and /draw"})
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or len(size) > 10 or int(size) > REQUEST:
            self.close_connection = True
            text = f"a request has its length, and at most {REQUEST:,} bytes"
            return self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": text})
        if self.headers.get_content_type() != "application/json":  # what a form of another page cannot send
            return self._say(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "application/json is wanted"})
        data = self.rfile.read(int(size))
        try:
            self._say(HTTPStatus.OK, self.server.answer(data))
        except UsageError as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": shown(str(error))})
        except TimeoutError as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except DimoError as error:
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": shown(str(error))})
        except OSError:  # whoever asked has gone
            self.close_connection = True
        except Exception as error:  # of a plugin: the server goes on
            logger.opt(exception=error).error("a draw failed: {}: {}", type(error).__name__, error)
            text = f"unexpected {type(error).__name__}: {error}"
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": shown(text)})

    def _is_strange(self) -> bool:
        """Refuse what no page of this server sends: another host's name, or another page's request."""
        hosts = [f"{name}:{self.server.server_port}" for name in NAMES]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in hosts and origin in (None, *(f"http://{host}" for host in hosts)):
            return False
        self.close_connection = True
        text = f"this page is only for {self.server.url}, and not for other hosts or pages"
        self._say(HTTPStatus.FORBIDDEN, {"error": text})
        return True

    def _say(self, status: HTTPStatus, data: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(data).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, script: str = "'none'") -> None:
        policy = (
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; "
            f"script-src {script}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        with suppress(OSError):  # whoever asked has gone
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Content-Security-Policy": policy,
                "Cross-Origin-Resource-Policy": "same-origin",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, for those who want it."""
        logger.debug("{}", shown(format % args))

"""Where web servers may send a client to: ``watched``."""

import os
from functools import cache
from typing import Any

VARIABLE = "DIMO_REDIRECTS"
"""Hosts to which http may be redirected from another host, with commas between them; ``*`` for all."""

STORES = {"huggingface.co": ("hf.co", "huggingface.co"), "github.com": ("githubusercontent.com",)}
"""Hosts of public files, and the stores to which they send everybody."""


class Redirected(PermissionError):
    """A server sends to another host, which nobody allowed."""


@cache
def watched() -> Any:
    """A trace for clients of aiohttp, one for all, that stops at a redirection which is not allowed."""
    from aiohttp import TraceConfig

    trace = TraceConfig()
    trace.on_request_redirect.append(_check)
    return trace


async def _check(session: Any, context: Any, params: Any) -> None:
    from yarl import URL

    headers = params.response.headers
    here, there = params.url, params.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
    weaker = here.scheme == "https" and there.scheme == "http"
    if not allowed(here.host or "", there.host or "") or (weaker and not allowed("", there.host or "")):
        raise Redirected(
            f"{here.host} sends to {there.scheme}://{there.host}, which nobody allowed. Where you "
            f"trust it, set {VARIABLE}={there.host}, or give the address it leads to."
        )


def allowed(here: str, there: str) -> bool:
    """Whether a host may send to another one.

    Args:
        here: The host.
        there: Where it sends to.
    """
    hosts = {*filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")), *STORES.get(here, ())}
    return here == there or any(host == "*" or f".{there}".endswith(f".{host}") for host in hosts)

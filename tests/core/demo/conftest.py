"""What tests of the page share: a drawer in place of a generator, and a server for it."""

import threading
from collections.abc import Iterator

import attrs
import pytest
import torch

from dimo_core.demo.server import Server
from dimo_core.jobs.demo import Answer, Wish

NASTY = '"><script>alert(1)</script>&'


@attrs.define
class Drawer:
    """In place of a demonstration: draws pictures of the seed, or what a test wants."""

    wishes: list[Wish] = attrs.field(factory=list)
    error: Exception | None = None
    lines: tuple[str, ...] = ()
    inside: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)
    kind: str = "label"
    most: int = 64

    def facts(self):
        own = {"kind": self.kind, "classes": ["even", NASTY], "most": self.most, "pictures": True}
        return own | {"title": NASTY, "teacher": "teacher", "temperature": 1.0, "device": "cpu"}

    def draw(self, wish):
        self.wishes.append(wish)
        self.inside.set()
        if wish.condition == "wait":
            self.released.wait(10)
        if self.error is not None:
            raise self.error
        pictures = torch.full((wish.count, 1, 2, 2), wish.seed, dtype=torch.uint8)
        names = (wish.condition,) * wish.count
        images = None if self.lines else pictures
        return Answer(
            images=images, lines=self.lines, names=names, seconds=0.5, title=wish.who, cost="1 forward pass"
        )


@pytest.fixture
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture
def server(drawer: Drawer) -> Iterator[Server]:
    with Server(drawer, 0, patience=0.2) as served:  # type: ignore[arg-type]
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield served
        drawer.released.set()
        served.shutdown()

"""Registers the scenes, their prompts, their reader and their metric."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "data",
        "scenes",
        "dimo_scenes.data:Scenes",
        summary="one or two coloured handwritten digits with captions, 16x16 (embedded)",
    )
    register(
        "conditions",
        "scene-prompts",
        "dimo_scenes.prompts:ScenePrompts",
        summary="captions of the scenes; held-out ones for evaluation",
    )
    register(
        "features",
        "scenes-reader",
        "dimo_scenes.reader:SceneReader",
        summary="a small network that reads digits, colours and places in scenes (embedded)",
    )
    register(
        "metric",
        "composition",
        "dimo_scenes.metric:Composition",
        summary="exact: share of scenes that show what their prompts say, by GenEval's tags",
    )

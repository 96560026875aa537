"""A small captioned world: one or two coloured handwritten digits, and an exact compositional evaluation.

``Scenes`` is the data, ``ScenePrompts`` the prompts, ``SceneReader`` reads pictures back, ``Composition``
judges whether they show what their prompts say. See ``NOTICE.md`` for where the handwriting comes from and
``READER.md`` for the reader's card.
"""

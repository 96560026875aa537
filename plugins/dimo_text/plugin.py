"""Registers data of text and metrics of samples of text."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Nothing yet."""

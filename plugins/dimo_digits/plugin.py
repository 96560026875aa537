"""Registers the digits, their reader and their metrics."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register("data", "digits", "dimo_digits.data:Digits", summary="1,797 handwritten digits, 8x8 (embedded)")
    register(
        "features",
        "digits-reader",
        "dimo_digits.reader:DigitReader",
        summary="a small classifier of handwritten digits (embedded)",
    )
    register(
        "metric",
        "digits",
        "dimo_digits.metric:DigitMetrics",
        summary="exact: readable share, class accuracy, entropy over the digits of a class",
    )

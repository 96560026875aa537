"""The conformance kit: does a plugin keep what its interface promises?

Tests of third parties call the checks; each raises ``AssertionError`` that names the promise.
"""

from dimo_core.testing.checks import (
    check_conditions,
    check_divergence,
    check_options,
    check_sampler,
    check_teacher,
)

__all__ = ["check_conditions", "check_divergence", "check_options", "check_sampler", "check_teacher"]

"""The conformance kit: does a plugin keep what its interface promises?

There is a check for every kind of plugin. Call it from your own tests; it raises ``AssertionError`` with a
sentence on what the interface asks for and what was found::

    from dimo_core.testing import check_teacher

    def test_my_teacher_keeps_the_contract():
        check_teacher(MyTeacher(), ["a prompt", "another"])

Checks are small and run on the CPU; weights that a plugin needs must be at hand. ``TinyTeacher`` is a teacher
for the tests of what needs one.
"""

from dimo_core.testing.backbones import check_backbone
from dimo_core.testing.divergences import check_divergence
from dimo_core.testing.measures import check_features, check_metric
from dimo_core.testing.objectives import check_objective
from dimo_core.testing.options import check_options
from dimo_core.testing.outlets import check_command, check_tracker
from dimo_core.testing.parts import check_auxiliary, check_generator
from dimo_core.testing.samplers import check_guidance, check_sampler
from dimo_core.testing.sources import check_conditions, check_data
from dimo_core.testing.teachers import check_teacher
from dimo_core.testing.tiny import TinyTeacher

__all__ = [
    "TinyTeacher",
    "check_auxiliary",
    "check_backbone",
    "check_command",
    "check_conditions",
    "check_data",
    "check_divergence",
    "check_features",
    "check_generator",
    "check_guidance",
    "check_metric",
    "check_objective",
    "check_options",
    "check_sampler",
    "check_teacher",
    "check_tracker",
]

"""The core of dimo: interfaces, registry, engine and command line of Di[M]O distillation.

Importing it imports no torch: every public name below is imported from its module on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimo_core.auxiliary import Auxiliary, AuxiliaryOptions
    from dimo_core.backbone import Backbone
    from dimo_core.conditions import Conditioning
    from dimo_core.config.distil import Job, job_from_config, resolve_job
    from dimo_core.divergence import Divergence
    from dimo_core.draws import Draws
    from dimo_core.errors import (
        CheckpointError,
        ConfigError,
        DimoError,
        Interrupted,
        MissingLibraryError,
        NumericalError,
        PluginError,
        SourceError,
        UnknownNameError,
        UsageError,
    )
    from dimo_core.files.folder import Folder
    from dimo_core.generator import Generator, GeneratorOptions, Rollout
    from dimo_core.guidance import Adaptive, Constant, Guidance, Ramp
    from dimo_core.hookspecs import KINDS, PLUGIN_API, Register, hookimpl
    from dimo_core.jobs.distil import RunResult, distill
    from dimo_core.metric import FeatureExtractor, Metric, Samples
    from dimo_core.objective import (
        Batch,
        Ingredients,
        Objective,
        ObjectiveOptions,
        Optimisation,
        Part,
        Phase,
    )
    from dimo_core.registry import Registry
    from dimo_core.sampler import Sampled, Sampler
    from dimo_core.settings import Evaluate, Train
    from dimo_core.sources import Conditions, ConditionStream, Data, Examples
    from dimo_core.suggestions import Choice, EvaluationPlan, Sampling
    from dimo_core.teacher import Preview, Teacher
    from dimo_core.tokens import Tokens, TokenSpace
    from dimo_core.tracker import Tracker

_MODULES = {
    "auxiliary": ("Auxiliary", "AuxiliaryOptions"),
    "backbone": ("Backbone",),
    "conditions": ("Conditioning",),
    "config.distil": ("Job", "job_from_config", "resolve_job"),
    "divergence": ("Divergence",),
    "draws": ("Draws",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "DimoError",
        "Interrupted",
        "MissingLibraryError",
        "NumericalError",
        "PluginError",
        "SourceError",
        "UnknownNameError",
        "UsageError",
    ),
    "files.folder": ("Folder",),
    "generator": ("Generator", "GeneratorOptions", "Rollout"),
    "guidance": ("Adaptive", "Constant", "Guidance", "Ramp"),
    "hookspecs": ("KINDS", "PLUGIN_API", "Register", "hookimpl"),
    "metric": ("FeatureExtractor", "Metric", "Samples"),
    "objective": (
        "Batch",
        "Ingredients",
        "Objective",
        "ObjectiveOptions",
        "Optimisation",
        "Part",
        "Phase",
    ),
    "registry": ("Registry",),
    "jobs.distil": ("RunResult", "distill"),
    "sampler": ("Sampled", "Sampler"),
    "settings": ("Evaluate", "Train"),
    "sources": ("ConditionStream", "Conditions", "Data", "Examples"),
    "suggestions": ("Choice", "EvaluationPlan", "Sampling"),
    "teacher": ("Preview", "Teacher"),
    "tokens": ("TokenSpace", "Tokens"),
    "tracker": ("Tracker",),
}

_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "KINDS",
    "PLUGIN_API",
    "Adaptive",
    "Auxiliary",
    "AuxiliaryOptions",
    "Backbone",
    "Batch",
    "CheckpointError",
    "Choice",
    "ConditionStream",
    "Conditioning",
    "Conditions",
    "ConfigError",
    "Constant",
    "Data",
    "DimoError",
    "Divergence",
    "Draws",
    "Evaluate",
    "EvaluationPlan",
    "Examples",
    "FeatureExtractor",
    "Folder",
    "Generator",
    "GeneratorOptions",
    "Guidance",
    "Ingredients",
    "Interrupted",
    "Job",
    "Metric",
    "MissingLibraryError",
    "NumericalError",
    "Objective",
    "ObjectiveOptions",
    "Optimisation",
    "Part",
    "Phase",
    "PluginError",
    "Preview",
    "Ramp",
    "Register",
    "Registry",
    "Rollout",
    "RunResult",
    "Sampled",
    "Sampler",
    "Samples",
    "Sampling",
    "SourceError",
    "Teacher",
    "TokenSpace",
    "Tokens",
    "Tracker",
    "Train",
    "UnknownNameError",
    "UsageError",
    "distill",
    "hookimpl",
    "job_from_config",
    "resolve_job",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dimo")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])

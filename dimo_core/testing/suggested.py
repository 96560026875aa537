"""What teachers and data suggest by names of plugins: recipes, samplings and evaluation plans."""

from collections.abc import Callable
from functools import partial
from typing import Any

from dimo_core.config.distil import DistilDraft
from dimo_core.config.layers import from_mapping
from dimo_core.errors import DimoError, PluginError, UnknownNameError, UsageError
from dimo_core.registry import Registry, built
from dimo_core.sampler import TeacherSampling
from dimo_core.suggestions import EvaluationPlan, choices
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import require

INSTALLED = "names of a package are found when it is installed: pip install -e ."
"""What authors run into first."""


def require_suggestions(teacher: Teacher) -> None:
    """What the teacher suggests can be used: recipes, evaluation plan, and every named sampling."""
    registry, recipes, samplings = Registry.discover(), teacher.recipes(), teacher.samplings()
    named = all(isinstance(key, str) for recipe in recipes.values() for key in recipe)
    require(named, "recipes are mappings by option name")
    if (plan := teacher.evaluation()) is not None:
        require_plan(plan, registry)
    for name in recipes:
        arguments = from_mapping({"teacher": teacher, "preset": name}, "the check")
        draft = DistilDraft(layers=[arguments], registry=registry)
        # Not what a user still has to choose, such as data.
        problems = [error for error in draft.problems if isinstance(error, PluginError | UnknownNameError)]
        found = "; ".join(map(str, problems))
        require(not problems, f"the recipe {name!r} names what exists ({found}; {INSTALLED})")
    for name, sampling in samplings.items():
        require(bool(sampling.source), f"the sampling {name!r} tells its source")
        what = f"sampler and guidance of the sampling {name!r} can be built"
        _require_built(what, partial(TeacherSampling.of, sampling, registry, name), DimoError)


def require_plan(plan: EvaluationPlan, registry: Registry) -> None:
    """An evaluation plan survives YAML, names what exists, and says which number decides."""
    require(EvaluationPlan(**plan.as_dict()) == plan, "the evaluation plan survives YAML")
    fields = {"metric": "metrics"} | {kind: kind for kind in ("conditions", "sampler", "guidance")}
    fields |= {kind: kind for kind in ("data", "features") if getattr(plan, kind) is not None}
    better: dict[str, str] = {}
    for kind, field in fields.items():
        for choice in choices(getattr(plan, field)):
            what = f"the evaluation plan names a {kind} that exists"
            # What needs a library that is missing here is the user's business.
            made = _require_built(what, partial(built, registry, kind, choice), UsageError)
            if kind == "metric" and made is not None:
                better |= made.better
    require(bool(plan.best) or not plan.metrics, "an evaluation plan with metrics names one as best")
    name, good = plan.best.removeprefix("-"), "larger" if plan.best.startswith("-") else "smaller"
    told = f"best is {plan.best!r}, of which {good} is better, as the metric says (with '-' larger is)"
    require(better.get(name, good) == good, told)


def _require_built(what: str, build: Callable[[], Any], wrong: type[DimoError]) -> Any:
    """What was built; None where something is missing that a user may have."""
    try:
        return build()
    except wrong as error:
        raise AssertionError(f"expected: {what} ({error}; {INSTALLED})") from error
    except DimoError:
        return None

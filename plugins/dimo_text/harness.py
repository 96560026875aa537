"""The command ``dimo harness``: tasks of lm-eval, answered by a generator or a teacher."""

import attrs
from attrs import validators as v

from dimo_core.command import Command
from dimo_core.errors import UsageError
from dimo_core.settings import Precision


@attrs.frozen(kw_only=True)
class Harness(Command):
    """Tasks of lm-eval (EleutherAI's evaluation harness) that ask for answers.

    Attributes:
        path: Folder of a generator, or of a run with one; null where ``how`` names a teacher.
        how: YAML file that says how a teacher is sampled: what `dimo sample --teacher NAME --print_config`
            prints.
        tasks: Tasks by name, such as gsm8k.
        include: Folder with task files of your own; their Python, if any, is executed.
        limit: Questions of each task; null for all.
        fewshot: Examples before each question; null for as many as the task has.
        seed: Seed of the draws.
        batch_size: Questions answered at a time.
        device: ``auto``, or a torch device.
        precision: How the networks compute: ``fp32``, ``tf32`` or ``bf16``.
        out: Folder of the results, which must be new or empty; null writes none.
    """

    path: str | None = None
    how: str | None = None
    tasks: tuple[str, ...] = attrs.field(validator=v.min_len(1))
    include: str | None = None
    limit: int | None = attrs.field(default=None, validator=v.optional(v.ge(1)))
    fewshot: int | None = attrs.field(default=None, validator=v.optional(v.ge(0)))
    seed: int = attrs.field(default=0, validator=v.ge(0))
    batch_size: int = attrs.field(default=16, validator=[v.ge(1), v.le(64)])
    device: str = "auto"
    precision: Precision = "fp32"
    out: str | None = None

    def run(self) -> str:
        """Answer, and return the table of lm-eval with the tokens by forward pass.

        Raises:
            UsageError: unless one of ``path`` and ``how`` is given; for a task that there is not, whose data
                cannot be had, or that asks for likelihoods.
            MissingLibraryError: when lm-eval does not load.
        """
        if (self.path is None) == (self.how is None):
            raise UsageError("give either --path, a generator, or --how, which says how a teacher is sampled")
        from dimo_text.harness_model import Questions, answering  # torch is not needed to show the options

        questions = Questions.of(self.tasks, include=self.include, out=self.out)
        model = answering(
            self.path,
            self.how,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
        )
        return questions.put(model, limit=self.limit, fewshot=self.fewshot)

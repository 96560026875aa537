"""What lm-eval asks, and who answers."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs

from dimo_core.config.layers import from_file
from dimo_core.config.sample import SampleDraft
from dimo_core.device import find_device
from dimo_core.errors import DimoError, MissingLibraryError, UsageError
from dimo_core.evaluation.drawing import SITES, Drawing, Opened
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import generator_folder, load_generator
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_core.progress import Progress
from dimo_core.registry import Registry
from dimo_core.settings import Precision

BLOCK = 64
"""Samples whose random numbers are drawn together, as in ``dimo sample``."""


def library(name: str) -> ModuleType:
    """A module of lm-eval.

    Raises:
        MissingLibraryError: when it does not load.
    """
    try:
        return import_beside_torchvision(f"lm_eval.{name}")
    except FAILURES as error:
        raise MissingLibraryError(
            f"`dimo harness` needs the library 'lm-eval', which does not load ({type(error).__name__}: "
            f"{error}). Run: pip install 'dimo[harness]'"
        ) from error


@attrs.define(eq=False)
class Answering:
    """Answers questions, and counts what that takes.

    Attributes:
        drawing: How samples are drawn.
        opened: Draws them.
        tokens: That counted so far: the model's own before the end, stop strings of tasks not looked at.
        passes: That were made for them, two where guidance takes two.
    """

    drawing: Drawing
    opened: Opened
    tokens: int = 0
    passes: int = 0

    def __call__(self, questions: Sequence[str]) -> list[str]:
        """The answer to each; the random numbers of a question hang on its place.

        Args:
            questions: Raw conditions of the teacher.
        """
        teacher, texts = self.drawing.teacher, list[str]()
        with Progress(len(questions), unit="question") as progress:
            for batch in self.drawing.batches(questions, self.opened):
                s = batch.samples
                assert s.calls is not None
                texts += teacher.texts(batch.tokens, teacher.encode_conditions(s.conditions))
                self.tokens += batch.tokens.numel() if s.counted is None else int(s.counted.sum())
                self.passes += int(s.calls.sum())
                progress.advance(len(texts), {})
        return texts


def cut(text: str, stops: str | Sequence[str] | None) -> str:
    """A text up to the first of some strings.

    Args:
        text: It.
        stops: These strings; empty ones do not count.
    """
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop else text
    return text


def asked(answering: Answering) -> Any:
    """The model that lm-eval takes."""

    class Model(library("api.model").LM):  # type: ignore[misc]
        """Answers; likelihoods are refused."""

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """Answers up to the stop strings of the task; their length is the teacher's."""
            texts = answering([request.args[0] for request in requests])
            return [cut(t, r.args[1].get("until")) for t, r in zip(texts, requests, strict=True)]

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            """Refused."""
            raise UsageError(
                f"the task {requests[0].task_name!r} asks for likelihoods, which a model that decides "
                "several tokens at once does not have. Choose tasks that ask for answers, such as gsm8k."
            )

        loglikelihood_rolling = loglikelihood

    return Model()


@attrs.frozen(kw_only=True, eq=False)
class Questions:
    """Tasks, found before anything is computed.

    Attributes:
        tasks: Their names.
        manager: What lm-eval finds them with.
        folder: Where results go; None for nowhere.
    """

    tasks: tuple[str, ...]
    manager: Any
    folder: Folder | None

    @classmethod
    def of(cls, tasks: tuple[str, ...], *, include: str | None, out: str | None) -> "Questions":
        """Look for tasks and for the folder.

        Args:
            tasks: Their names.
            include: A folder with further task files.
            out: The folder of the results.

        Raises:
            UsageError: for a task that there is not, and a folder that is not empty.
            MissingLibraryError: when lm-eval does not load.
        """
        folder = None if out is None else Folder(out)
        if folder is not None and folder.names():
            raise UsageError(f"{out!r} is not empty. Choose another --out.")
        manager = library("tasks").TaskManager(include_path=include)
        if unknown := [name for name in tasks if not manager.match_tasks([name])]:
            raise UsageError(
                f"lm-eval has no task {unknown[0]!r}. `lm-eval ls tasks` lists them; --include adds a folder "
                "of your own."
            )
        return cls(tasks=tasks, manager=manager, folder=folder)

    def put(self, model: Answering, *, limit: int | None, fewshot: int | None) -> str:
        """Have the questions answered; returns the table.

        Args:
            model: Answers them.
            limit: Questions of each task; None for all.
            fewshot: Examples before each; None for as many as the task has.

        Raises:
            UsageError: for what a task asks for or lacks.
        """
        how: dict[str, Any] = {"num_fewshot": fewshot, "limit": limit, "log_samples": False}
        try:
            found = library("evaluator").simple_evaluate(
                model=asked(model), tasks=list(self.tasks), task_manager=self.manager, **how
            )
        except DimoError:
            raise
        except Exception as error:  # of lm-eval, of its tasks, and of what fetches their data
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"lm-eval cannot evaluate {', '.join(self.tasks)}: {reason[:400]}") from error
        together = model.tokens / max(1, model.passes)
        if self.folder is not None:
            names = ("results", "versions", "n-shot", "n-samples")
            kept = {name: found[name] for name in names if name in found}
            self.folder.write_json("results.json", _plain({**kept, "tokens_per_pass": together}))
        counts = f"{model.tokens:,} tokens / {model.passes:,} passes"
        return f"{library('utils').make_table(found)}\ntokens by forward pass: {together:.2f} ({counts})"


def answering(
    path: str | None, how: str | None, *, seed: int, device: str, precision: Precision, batch_size: int
) -> Answering:
    """A generator, or a teacher, that answers.

    Args:
        path: Folder of the generator, or of a run.
        how: File that says how the teacher is sampled.
        seed: Seed of the draws.
        device: ``auto``, or a torch device.
        precision: How the networks compute.
        batch_size: Questions answered at a time.

    Raises:
        DimoError: for what cannot be read.
    """
    where = find_device(device)
    if path is not None:
        teacher, generator = load_generator(generator_folder(path).url, where)
        teacher, opened = teacher.on(where), Opened.generator(generator)
    else:
        job = SampleDraft(layers=[from_file(str(how))], registry=Registry.discover()).job()
        teacher = job.teacher.on(where)
        opened = Opened.teacher(teacher, teacher.network().to(where), job.sampling)
    drawing = Drawing(
        teacher=teacher,
        seed=seed,
        phase="harness",
        device=where,
        precision=precision,
        batch_size=max(1, min(batch_size, SITES // teacher.tokens.length)),
        block=BLOCK,
    )
    return Answering(drawing, opened)


def _plain(value: Any) -> Any:
    """What JSON has of a value; of other things their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""What a training looks like by now, from the files of its run folder: ``dimo watch``."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from shlex import quote
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from dimo_core.engine.metrics_log import NAME, read_metrics
from dimo_core.errors import UsageError
from dimo_core.evaluation.table import RUN_TABLE, Table
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.files.images import open_picture
from dimo_core.files.owner import writer
from dimo_core.files.urls import local_path
from dimo_core.progress import clock
from dimo_core.report.page import sheet_names
from dimo_core.report.plots import GROUPS, series_of
from dimo_core.report.terminal import curve, picture
from dimo_core.texts import printable

ORDER = ("eval/", *(part for _, _, part in GROUPS))
"""What is shown first, by a part of its name."""

NEWEST = 4096
"""Lines of metrics.jsonl whose curve is shown; of more, every so many."""


@attrs.frozen(kw_only=True)
class State:
    """A training by now.

    Attributes:
        name: Its folder.
        steps: Of the whole training.
        lines: Of metrics.jsonl.
        table: The result; None until the run has ended.
        sheet: Name of the newest samples; empty before the first.
        content: Of the newest samples.
        ended: Whether the training has come to its end.
        stopped: Why nothing more will come before that; empty while something may.
        quiet: Who writes, and since when nothing was written, where nobody can tell from here whether that
            process is still there.
    """

    name: str
    steps: int
    lines: Sequence[Mapping[str, Any]]
    table: Table | None = None
    sheet: str = ""
    content: bytes = b""
    ended: bool = False
    stopped: str = ""
    quiet: str = ""

    @classmethod
    def read(cls, folder: Folder) -> "State":
        """From the files of a run.

        Raises:
            UsageError: when it is no folder of `dimo run` or `dimo pretrain`.
            StorageError: when it cannot be read.
        """
        config = folder.read_yaml(CONFIG) if folder.exists(CONFIG) else {}
        config = config if isinstance(config, Mapping) else {}
        train = config.get("train")
        if not isinstance(train, Mapping) or not isinstance(train.get("steps"), int):
            raise UsageError(
                f"{folder.url!r} is no run: it has no {CONFIG} of a training. Give the folder that "
                "`dimo run` or `dimo pretrain` writes to (--out), such as runs/maskgit-001."
            )
        lines, sheets = read_metrics(folder), sheet_names(folder)
        evaluated = config.get("eval")
        judged = isinstance(evaluated, Mapping) and bool(evaluated.get("enabled"))
        table = Table.from_dict(folder.read_json(RUN_TABLE)) if folder.exists(RUN_TABLE) else None
        stopped, quiet = _writing(folder, "pretrain" if "model" in config else "run")
        through = bool(lines) and lines[-1]["step"] >= train["steps"]
        return cls(
            name=folder.url,
            steps=train["steps"],
            lines=lines,
            table=table,
            sheet=sheets[-1] if sheets else "",
            content=folder.read("samples", sheets[-1]) if sheets else b"",
            ended=through and (table is not None or not judged),
            stopped=stopped,
            quiet=quiet,
        )

    @property
    def step(self) -> int:
        """The last step with a line."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    def left(self) -> float | None:
        """Seconds until the last step, by the pace of the newest lines; None when that is not known."""
        timed = [line for line in self.lines[-20:] if isinstance(line.get("seconds"), int | float)]
        pairs = [(a, b) for a, b in pairwise(timed) if b["seconds"] > a["seconds"]]
        steps = sum(b["step"] - a["step"] for a, b in pairs)
        seconds = sum(b["seconds"] - a["seconds"] for a, b in pairs)
        return (self.steps - self.step) * seconds / steps if steps > 0 else None

    def shown(self, console: Console) -> RenderableType:
        """All of it, as high and wide as the terminal."""
        plain = console.options.ascii_only
        series = series_of(self.lines[:: len(self.lines) // NEWEST + 1])
        names = sorted(series, key=lambda n: (next((i for i, p in enumerate(ORDER) if p in n), 99), n))
        grid = Grid("scalar", "", "now", "least", "most", box=None, padding=(0, 2, 0, 0), header_style="dim")
        high = console.height // 2 if console.is_terminal else len(names)
        for name in names[:high]:
            values = series[name][1]
            width = max(10, console.width - 64)
            numbers = (f"{value:.4g}" for value in (values[-1], min(values), max(values)))
            grid.add_row(printable(name), curve(values, width, plain=plain), *numbers)
        parts: list[RenderableType] = [Text(self._heading()), grid]
        if len(names) > high:
            parts.append(Text(f"and {len(names) - high} more, in metrics.jsonl"))
        parts += [] if self.table is None else [self.table.rich()]
        room = console.height - (1 if self.ended else 5 + len(grid.rows))
        return Group(*parts, *self._samples(console, room))

    def _heading(self) -> str:
        left = self.left()
        more = "" if left is None else f", about {clock(left)} left"
        if self.ended or self.stopped:
            more = f"; {'ended' if self.ended else self.stopped}"
        elif self.quiet:
            more = f"{more}; {self.quiet}"
        return f"{self.name}: step {self.step} of {self.steps}{more}"

    def _samples(self, console: Console, lines: int) -> list[RenderableType]:
        """The newest samples; where there is no terminal, their name."""
        if not self.sheet:
            return []
        name = Text(f"samples/{self.sheet}")
        if PurePosixPath(self.sheet).suffix == ".txt":
            text = self.content.decode(errors="replace").splitlines()
            kept = text[: max(3, lines)] if console.is_terminal else text
            return [name, Text("\n".join(printable(line) for line in kept))]
        if not console.is_terminal or console.options.ascii_only:
            return [name]
        return [name, picture(open_picture(self.content), console.width, max(4, lines))]


def _writing(folder: Folder, command: str) -> tuple[str, str]:
    """``stopped`` and ``quiet`` of a state."""
    found = writer(folder)
    if found is None or found[1] is False:
        why = "nobody writes to it" if found is None else f"{found[0]} has ended without a word"
        return f"stopped: {why}. `dimo {command} --resume {quote(folder.url)}` goes on", ""
    if found[1]:
        return "", ""
    place = local_path(folder.path(NAME))
    since = ""
    if place is not None and place.exists():
        since = f"nothing was logged for {clock(max(0.0, time.time() - place.stat().st_mtime))}, and "
    return "", f"{since}whether {found[0]} is still there cannot be told from here"


def watch(folder: Folder, *, every: float = 5.0, once: bool = False) -> None:
    """Show a run until it ends or nobody writes to it any more; once where there is no terminal.

    Args:
        folder: Of the run.
        every: Seconds between two looks.
        once: Look once.

    Raises:
        UsageError: when it is no folder of a run.
        StorageError: when it cannot be read.
    """
    console = Console()
    state = State.read(folder)
    if not (once or state.ended or state.stopped) and console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not (state.ended or state.stopped):
                live.update(state.shown(console), refresh=True)
                time.sleep(every)
                state = State.read(folder)
    console.print(state.shown(console))

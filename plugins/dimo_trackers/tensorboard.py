"""The tracker ``tensorboard``."""

from collections.abc import Mapping
from typing import Any

import attrs
import fsspec
import yaml

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.images import read_picture
from dimo_core.files.urls import local_path
from dimo_core.tracker import Tracker
from dimo_trackers.libraries import library


@attrs.frozen(kw_only=True, slots=False)
class TensorBoard(Tracker):
    """Event files of scalars, pictures and configuration. A resumed run hides what it does again.

    Attributes:
        path: Folder of the event files; null for ``tensorboard`` in the run folder, which must be local then.
    """

    path: str | None = None

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Remember where.

        Raises:
            UsageError: for a run folder that is not local, and no ``path``.
            MissingLibraryError: when the library does not load.
        """
        vars(self)["library"] = library("torch.utils.tensorboard", "tensorboard")
        if self.path is None and local_path(folder) is None:
            raise UsageError(f"event files are local, and {folder} is not: set --tracker.path")
        vars(self)["place"] = self.path or Folder(folder).path("tensorboard")
        vars(self)["config"] = f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```"

    def _writer(self, step: int) -> Any:
        if "writer" not in vars(self):
            made = vars(self)["library"].SummaryWriter(vars(self)["place"], purge_step=step)
            made.add_text("config", vars(self)["config"], step)
            vars(self)["writer"] = made
        return vars(self)["writer"]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One after another, on the disk at once."""
        for name, value in values.items():
            self._writer(step).add_scalar(name, value, step)
        self._writer(step).flush()

    def picture(self, step: int, name: str, path: str) -> None:
        """The picture itself; lines of text as text."""
        if path.endswith(".txt"):
            parent, _, file = path.rpartition("/")
            text = Folder(parent).read(file).decode()
            self._writer(step).add_text(name, text.replace("\n", "\n\n"), step)
        else:
            self._writer(step).add_image(name, read_picture(*fsspec.core.url_to_fs(path)), step)

    def finish(self) -> None:
        """Close the file."""
        if "writer" in vars(self):
            vars(self)["writer"].close()

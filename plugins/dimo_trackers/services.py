"""The trackers ``wandb`` and ``trackio``, whose libraries have one interface."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
from attrs import validators as v

from dimo_core.files.folder import Folder
from dimo_core.files.urls import local_path
from dimo_core.tracker import Tracker
from dimo_trackers.libraries import library


@attrs.frozen(kw_only=True, slots=False)
class Service(Tracker):
    """A run of a service. Its identity is kept in the run folder, so that a resumed run goes on in it.

    Attributes:
        project: The project that runs belong to.
        run: What the run is called there; null for the name of its folder.
    """

    library: ClassVar[str]

    project: str = "dimo"
    run: str | None = None

    @property
    def module(self) -> Any:
        """The library.

        Raises:
            MissingLibraryError: when it does not load.
        """
        return library(self.library, self.library)

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Begin the run, or go on in the one of this folder."""
        place, file = Folder(folder), f"{self.library}.json"
        name = self.run or folder.rstrip("/").rpartition("/")[2]
        known = place.read_json(file) if place.exists(file) else {}
        kept = self.begin(folder, name, dict(config), known)
        if kept != known:
            place.write_json(file, kept)

    def begin(
        self, folder: str, name: str, config: dict[str, Any], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Begin or go on; returns what is to be known of the run when it is resumed.

        Args:
            folder: The run folder.
            name: What the run is called.
            config: The resolved configuration.
            known: What was returned when it was begun; empty then.
        """
        raise NotImplementedError

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All at once."""
        self.module.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: str) -> None:
        """The file, where it is local and a picture."""
        local = local_path(path)
        if local is not None and local.suffix == ".png":
            self.module.log({name: self.module.Image(str(local))}, step=step)

    def finish(self) -> None:
        """End the run."""
        self.module.finish()


@attrs.frozen(kw_only=True, slots=False)
class Wandb(Service):
    """Weights & Biases.

    Attributes:
        project: The project that runs belong to.
        run: What the run is called there; null for the name of its folder.
        entity: Team or person; null for your own.
        mode: ``online``, or ``offline``, which `wandb sync` sends later.
    """

    library: ClassVar[str] = "wandb"

    entity: str | None = None
    mode: Literal["online", "offline"] = attrs.field(default="online", validator=v.in_(("online", "offline")))

    def begin(
        self, folder: str, name: str, config: dict[str, Any], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """By the service's own identity of the run."""
        local = local_path(folder)
        run = self.module.init(
            project=self.project,
            entity=self.entity,
            name=name,
            config=config,
            id=known.get("id"),
            resume="allow",
            mode=self.mode,
            dir=None if local is None else str(local),
        )
        return {"id": run.id}


@attrs.frozen(kw_only=True, slots=False)
class Trackio(Service):
    """trackio (Hugging Face): a local database, shown by `trackio show`.

    Attributes:
        project: The project that runs belong to.
        run: What the run is called there; null for the name of its folder.
    """

    library: ClassVar[str] = "trackio"

    def begin(
        self, folder: str, name: str, config: dict[str, Any], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """By its name, which is its identity there."""
        own = str(known.get("name", name))
        self.module.init(project=self.project, name=own, config=config, resume="allow")
        return {"name": own}

"""Repositories of the Hugging Face Hub: ``hf://OWNER/NAME@REVISION``, and one commit to one of them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from dimo_core.errors import DimoError, MissingLibraryError, StorageError, UsageError

FORM = "hf://OWNER/NAME, or hf://OWNER/NAME@BRANCH"


@attrs.frozen(kw_only=True)
class Repository:
    """A repository of a model.

    Attributes:
        name: ``OWNER/NAME``.
        branch: What is committed to.
    """

    name: str
    branch: str = "main"

    @classmethod
    def of(cls, url: str) -> "Repository":
        """The repository of a URL.

        Raises:
            UsageError: for any other URL or path.
        """
        found = re.fullmatch(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<branch>[\w.-]+))?/?", url)
        owner = url.removeprefix("hf://").partition("/")[0]
        if found is None or owner in ("datasets", "spaces", "buckets", "kernels"):
            raise UsageError(f"{url!r} is no repository of a model. Write {FORM}.")
        return cls(name=found["name"], branch=found["branch"] or "main")

    @property
    def url(self) -> str:
        """As ``--path`` options take it."""
        return f"hf://{self.name}{'' if self.branch == 'main' else f'@{self.branch}'}"

    def check(self) -> None:
        """Look whether something can be pushed at all: library, token, network.

        Raises:
            MissingLibraryError: without huggingface_hub.
            UsageError: without a token.
            StorageError: when the Hub was switched off.
        """
        hub = _library()
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise StorageError("HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it, or use --dry-run.")
        if not hub.get_token():
            raise UsageError(
                f"no token for {hub.constants.ENDPOINT}: nothing can be pushed. Make one with write access "
                "in its settings, and run `hf auth login`, or set HF_TOKEN."
            )

    def names(self, *, create: bool = False, private: bool = False) -> list[str] | None:
        """The files that it has; of one that is made now, none.

        Args:
            create: Make it if it is not there.
            private: Whether only its owner sees what is made.

        Raises:
            UsageError: when it is not there, and is not to be made, or the token does not reach it.
            StorageError: when the Hub does not answer.
        """
        hub = _library()
        api = hub.HfApi()
        with self._explained(hub):
            try:
                return list(api.list_repo_files(self.name, revision=self.branch))
            except hub.errors.RepositoryNotFoundError as error:
                if not create:
                    raise UsageError(
                        f"no repository {self.name} on {hub.constants.ENDPOINT}, or the token may not see "
                        "it. --create makes it (--private: for your eyes only)."
                    ) from error
            api.create_repo(self.name, private=private, exist_ok=True)
            return []

    def commit(self, files: Mapping[str, Path], deleted: Sequence[str], message: str) -> str:
        """Write files, all of them or none, in one commit.

        Args:
            files: Files of this machine, by name in the repository.
            deleted: Files of the repository that go.
            message: What is said about it.

        Returns:
            The commit's address.

        Raises:
            UsageError: when the token may not write.
            StorageError: when the Hub does not answer, or refuses.
        """
        hub = _library()
        added = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()
        ]
        gone = [hub.CommitOperationDelete(path_in_repo=name) for name in deleted]
        with self._explained(hub):
            done: Any = hub.HfApi().create_commit(
                self.name, [*added, *gone], commit_message=message, revision=self.branch
            )
        return str(done.commit_url)

    @contextmanager
    def _explained(self, hub: ModuleType) -> Iterator[None]:
        """What the library raises, as one line."""
        try:
            yield
        except DimoError:
            raise
        except hub.errors.RevisionNotFoundError as error:
            text = f"{self.name} has no branch {self.branch!r}. Make it first, or leave '@{self.branch}' out."
            raise UsageError(text) from error
        except Exception as error:  # of httpx, of the Hub's answers, of the upload
            first: BaseException = error  # the library tells which file, and its cause why
            while first.__cause__ is not None:
                first = first.__cause__
            status = getattr(getattr(error, "response", None), "status_code", None)
            text = " ".join(f"{error} {first if first is not error else ''}".split())[:300]
            if status in (401, 403):
                raise UsageError(
                    f"{hub.constants.ENDPOINT} refuses to let the token write to {self.name} ({status}). "
                    "Take one with write access to it."
                ) from error
            raise StorageError(
                f"{self.url} was not pushed ({type(error).__name__}: {text}). It is as it was before; try "
                f"again when {hub.constants.ENDPOINT} can be reached."
            ) from error


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except Exception as error:  # missing, or it does not load
        text = f"{type(error).__name__}: {error}"
        raise MissingLibraryError(
            f"hf:// needs huggingface_hub ({text}). Run: pip install 'dimo[hub]'"
        ) from error
    return huggingface_hub

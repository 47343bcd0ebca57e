"""Models on the Hugging Face Hub: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``, in and out.

A repository holds the two files of a model folder, and a model card. They are fetched with huggingface_hub, which keeps
them in its cache, so that a model that was fetched once is found without a network. A revision is a branch, a tag or a
commit; only a commit never changes. The names are checked before the library is called.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from alexnet.core.errors import UserError, one_line
from alexnet.core.names import printable
from alexnet.models import bundle
from alexnet.runtime.log import NullReporter, Reporter

PREFIX = "hub:"
INSTALL = "pip install 'alexnet[hub]'"
LOGIN = "log in with: hf auth login"
MAX_NAME = 96  # characters of OWNER/NAME (huggingface_hub, utils/_validators.py)
WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
REFERENCE = re.compile(rf"(?P<repository>{WORD}/{WORD})(?:@(?P<revision>[A-Za-z0-9_][A-Za-z0-9_./-]{{0,254}}))?")
CARD = "README.md"
ENDPOINT = "https://huggingface.co"  # where ``$HF_ENDPOINT`` names no other (huggingface_hub, constants.py)
CONNECT = 10.0
"""Seconds in which the hub must answer a connection; the library itself tries for half a minute, and says nothing."""
NO_CONNECTION = {
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "NetworkError",
    "ConnectionError",
    "TimeoutException",
}
"""Classes of the library's errors, and of those of the packages that it has used for HTTP, without a connection."""


class HubName(NamedTuple):
    """A repository ``OWNER/NAME``, and a revision or None for the newest."""

    repository: str
    revision: str | None


def is_hub_name(model: Path | str) -> bool:
    """Whether a MODEL is the name of a repository on the hub; no file is looked for."""
    return str(model).startswith(PREFIX)


def parse_hub_name(name: str) -> HubName:
    """The parts of ``hub:OWNER/NAME[@REVISION]``. Raises ``UserError`` for anything else."""
    text = name.removeprefix(PREFIX)
    found = REFERENCE.fullmatch(text)
    if found is None or not name.startswith(PREFIX) or any(part in text for part in ("--", "..")):
        raise UserError(f"{name!r} is not a name on the hub: give hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    if len(found["repository"]) > MAX_NAME or found["repository"].endswith(".git"):
        raise UserError(f"{name!r} is not a name on the hub: at most {MAX_NAME} characters, not ending in .git")
    return HubName(found["repository"], found["revision"])


def host() -> str:
    """The host name of the hub."""
    return urlsplit(_endpoint()).hostname or ENDPOINT


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or ENDPOINT


def is_reachable() -> bool:
    """Whether the hub answers a connection.

    True also where only the library can tell: with a proxy, an address that is none, or its own setting for no network.
    """
    address = urlsplit(_endpoint())
    through_proxy = address.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host())
    if through_proxy or os.environ.get("HF_HUB_OFFLINE"):
        return True
    try:
        socket.create_connection((host(), address.port or (80 if address.scheme == "http" else 443)), CONNECT).close()
    except OSError:
        return False
    except ValueError:
        return True
    return True


def fetch_from_hub(name: str, reporter: Reporter | None = None) -> Path:
    """The folder with the model files of ``hub:OWNER/NAME[@REVISION]``, from the cache or the network.

    If the repository has weights without our description, the path of its ``model.safetensors``. ``reporter``: receives
    a note if the hub cannot be reached and the copy in the cache is used. Raises ``UserError`` for an invalid name,
    without the library, without the network if the model is not in the cache, and for a repository without a model.
    """
    repository, revision = parse_hub_name(name)
    library = _library()
    offline = {} if is_reachable() else {"local_files_only": True}
    try:
        folder = Path(
            library.snapshot_download(
                repository, revision=revision, allow_patterns=list(bundle.FILES), library_name="alexnet", **offline
            )
        )
    except Exception as error:  # the library's errors, and those of the four packages that it uses
        raise _not_fetched(name, error) from error
    if offline:
        (reporter or NullReporter()).log(f"note: {host()} cannot be reached: the copy of {name} in the cache is used")
    weights, description = (folder / file for file in bundle.FILES)
    if not weights.is_file():
        raise UserError(f"{name} has no {weights.name}: it is no model that this program can read")
    return folder if description.is_file() else weights


def push_to_hub(model: Path | str, name: str, card: str, *, private: bool = False) -> str:
    """Upload a model to ``hub:OWNER/NAME``, which is created if it does not exist: the address of the commit.

    ``model``: a run folder or model folder; it is loaded first, so that no damaged model is uploaded. ``card``: the
    text of the model card (``report/model_card.py``). ``private``: whether a new repository is private. Raises
    ``UserError`` for an invalid name or one with a revision, without the library, and if the upload fails.
    """
    repository, revision = parse_hub_name(name)
    if revision is not None:
        raise UserError(f"{name!r} names a revision: a model is uploaded as the newest one, give hub:OWNER/NAME")
    library = _library()
    if not is_reachable():
        raise _unreachable(name)
    folder = bundle.model_folder(model)
    bundle.load_model(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for file in bundle.FILES:
            (Path(scratch) / file).symlink_to((folder / file).resolve())
        (Path(scratch) / CARD).write_text(card, encoding="utf-8")
        try:
            library.create_repo(repository, private=private, exist_ok=True)
            commit = library.upload_folder(
                repo_id=repository,
                folder_path=scratch,
                allow_patterns=[*bundle.FILES, CARD],
                commit_message="Upload a model of alexnet",
            )
        except Exception as error:
            raise _not_pushed(name, error) from error
    return str(getattr(commit, "commit_url", None) or commit)


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(f"models on the hub need the package huggingface_hub: {INSTALL}") from error


def _kinds(error: BaseException) -> set[str]:
    """The names of an error's classes: their modules have moved between versions of the library."""
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _not_fetched(name: str, error: Exception) -> UserError:
    kinds = _kinds(error)
    if "GatedRepoError" in kinds:
        return UserError(f"{name} is only for users whom its owner accepts: ask for access on its page, then {LOGIN}")
    if "RepositoryNotFoundError" in kinds:
        return UserError(f"there is no {name}, or it is private: check the name, or {LOGIN}")
    if "RevisionNotFoundError" in kinds:
        return UserError(f"{name}: there is no such revision; leave out @REVISION for the newest")
    if kinds & NO_CONNECTION:
        return UserError(
            f"{name} was not found: it is not in the cache of the hub on this computer, and {host()} cannot be "
            "reached; connect to the network, or give a file or folder"
        )
    return UserError(f"{name} cannot be fetched: try again later", [one_line(error)])


def _not_pushed(name: str, error: Exception) -> UserError:
    if "LocalTokenNotFoundError" in _kinds(error) or _status(error) in (401, 403):
        return UserError(f"you may not write to {name}: {LOGIN}, with a token that may")
    if _kinds(error) & NO_CONNECTION:
        return _unreachable(name)
    return UserError(f"{name} was not written: {printable(one_line(error))}")


def _unreachable(name: str) -> UserError:
    return UserError(f"{name} was not written: {host()} cannot be reached; connect to the network")

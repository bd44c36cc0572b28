"""Checkpoint references: a folder, or hf://owner/name@commit."""

from __future__ import annotations

import re
from pathlib import Path

from vlarl.errors import AssetError, RecipeError
from vlarl.recipe.paths import expanded
from vlarl.run.files import disk_errors

SCHEME = "hf://"
_REFERENCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
# Neither code nor pickles are ever fetched.
_ALLOWED = ["*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja"]


def resolve(reference: str, *, endpoint: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded into the hub's cache where it is not there yet.

    ``endpoint`` replaces HF_ENDPOINT; HF_HUB_OFFLINE,
    HF_HOME and a login are heeded. Raises RecipeError (R222 malformed), AssetError (R376, R300 no path).
    """
    if not reference.startswith(SCHEME):
        return expanded(reference)
    return _download(*_parts(reference), endpoint)


def in_cache(reference: str) -> Path:
    """The folder of an hf:// checkpoint in the hub's cache; nothing is fetched.

    Raises RecipeError (R222 malformed), AssetError (R376) where the cache does not have it.
    """
    from huggingface_hub import errors, snapshot_download

    name, revision = _parts(reference)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_ALLOWED, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        at = f" --revision {revision}" if revision else ""
        hint = f"where there is a network: `hf download {name}{at}`; the cache moves with HF_HOME"
        raise _unreachable(name, "it is not in the hub's cache, and a run would have to download it", hint) from error


def _parts(reference: str) -> tuple[str, str | None]:
    """Name and revision of an hf:// reference."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise RecipeError(
            f"{reference!r} is not of the form hf://owner/name@commit",
            code="R222",
            hint="for instance `--set policy.checkpoint=hf://openvla/openvla-7b@COMMIT`",
        )
    return match[1], match[2]


def pinned(reference: str, folder: Path) -> str:
    """What results call the checkpoint that ``resolve`` found in ``folder``.

    hf://owner/name@commit with the commit that was fetched, whichever revision was asked for; else the folder's name.
    """
    if not reference.startswith(SCHEME):
        return folder.resolve().name
    return f"{reference.partition('@')[0]}@{folder.name}"  # the hub's cache names a snapshot by its commit


def _download(name: str, revision: str | None, endpoint: str | None) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    try:
        with disk_errors(Path(constants.HF_HUB_CACHE)):
            return Path(snapshot_download(name, revision=revision, allow_patterns=_ALLOWED, endpoint=endpoint))
    except errors.GatedRepoError as error:
        hint = "accept the terms on its page, then `hf auth login`"
        raise _unreachable(name, "its owner asks for consent first", hint) from error
    except errors.RepositoryNotFoundError as error:
        hint = "check the name; a private one needs `hf auth login`"
        raise _unreachable(name, "the hub has no such repository, or it is private", hint) from error
    except errors.RevisionNotFoundError as error:
        raise _unreachable(name, f"it has no revision {revision}", "copy a commit from the page's history") from error
    except errors.HFValidationError as error:
        raise _unreachable(name, "the hub allows no such name", "check the name") from error
    except errors.LocalEntryNotFoundError as error:
        reason = "the hub does not answer, and the cache does not have all of it"
        hint = "unset HF_HUB_OFFLINE where there is a network; else copy the folder and name its path"
        raise _unreachable(name, reason, hint) from error
    except (errors.HTTPError, OSError) as error:
        reason = f"the download failed ({type(error).__name__})"
        raise _unreachable(name, reason, "try again: it goes on from there") from error


def _unreachable(name: str, reason: str, hint: str) -> AssetError:
    reference = f"{SCHEME}{name}"
    return AssetError(f"{reference} cannot be had: {reason}", code="R376", place=reference, hint=hint)

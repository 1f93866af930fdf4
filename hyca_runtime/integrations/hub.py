"""Plans from the Hub: ``hf://user/repo[@revision][/file.json][#digest]``, fetched only where that is asked for.

A repository says in ``plans.json`` what it has, with the size and the SHA-256 of every plan; what comes is held against
both, and against the digest of the address. Index and plan are of one commit. Only JSON and safetensors are fetched.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from hyca_runtime.errors import PlanError
from hyca_runtime.integrations.plan_index import INDEX_FILE, INSIDE, MAX_INDEX_BYTES, PlanIndex, read_index

SCHEME = "hf://"
ADDRESS = re.compile(
    rf"{SCHEME}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^#@]+))?(?:#(?P<digest>[0-9a-fA-F]{{12,64}}))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """Where a plan is on the Hub.

    Attributes:
        revision: a branch, a tag, or a commit, which never changes; None for the main branch.
        file: its name in the repository.
        digest: the SHA-256 it must have, or the first 12 or more digits of it; "" for any that the index says.
    """

    repo: str
    revision: str | None = None
    file: str = "plan.json"
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address.

        Raises:
            PlanError: it is none.
        """
        found = ADDRESS.fullmatch(text)
        told = {name: value for name, value in found.groupdict().items() if value} if found else {}
        if not found or not INSIDE.fullmatch(told.get("file", cls.file)):
            raise PlanError(
                f"{text[:120]!r}: expected {SCHEME}user/repo[@revision][/file.json][#digest], the digest with 12 to 64 "
                "hexadecimal digits of a SHA-256; of a branch whose name has a slash, name the commit"
            )
        return cls(**told | {"digest": told.get("digest", "").lower()})

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file != HubAddress.file else ""
        return f"{SCHEME}{self.repo}{revision}{file}" + (f"#{self.digest}" if self.digest else "")


def is_on_hub(path: object) -> bool:
    """Whether a path is an address on the Hub."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetch_plan(address: str, most: int, download: bool) -> Path:
    """The file of a plan on the Hub, in the Hub's cache of this machine.

    Args:
        most: bytes that a plan may have.
        download: whether it may be fetched.

    Raises:
        PlanError: it may not, there is none, or it is not what its repository or its address says.
    """
    wanted = HubAddress.parse(address)
    index, commit = fetch_index(wanted, download)
    entry = index.entry(wanted.file, str(wanted))
    pinned = replace(wanted, revision=commit)
    if not entry.sha256.startswith(wanted.digest):
        raise PlanError(f"{wanted}: expected a plan of SHA-256 {wanted.digest}, the repository has {entry.sha256}")
    file, _ = _fetched(pinned, wanted.file, min(most, entry.size))
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != entry.sha256:
        raise PlanError(f"{pinned}: its SHA-256 is {digest}, expected {entry.sha256} as its {INDEX_FILE} says")
    return file


def fetch_index(address: HubAddress, download: bool) -> tuple[PlanIndex, str]:
    """The index of a repository, and the commit it is of.

    Raises:
        PlanError: it may not be fetched, or there is none.
    """
    if not download:
        raise PlanError(f"{address} is on the Hub, and nothing is fetched unasked; allow it with download=True")
    file, commit = _fetched(address, INDEX_FILE, MAX_INDEX_BYTES)
    return read_index(file, str(address)), commit


def _fetched(address: HubAddress, name: str, most: int) -> tuple[Path, str]:
    """A file of a repository, and the commit it is of."""
    try:
        from huggingface_hub import hf_hub_download  # a host: imported where it is used
    except ImportError as error:
        raise PlanError(f"{address}: needs huggingface_hub 1.0 or newer: pip install 'huggingface_hub>=1'") from error
    try:
        ahead = hf_hub_download(address.repo, name, revision=address.revision, dry_run=True)
        _check_size(address, name, ahead.file_size, most)
        file = Path(hf_hub_download(address.repo, name, revision=ahead.commit_hash))
        _check_size(address, name, file.stat().st_size, most)
    except (OSError, ValueError) as error:  # what the Hub raises is one of both
        if isinstance(error, PlanError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise PlanError(f"{address}: cannot fetch its {name}: {reason}") from error
    except (AttributeError, TypeError) as error:
        raise PlanError(f"{address}: this huggingface_hub is not as expected, 1.0 to 2.4: {error}") from error
    if not COMMIT.fullmatch(str(ahead.commit_hash)):
        raise PlanError(f"{address}: the Hub says no commit, got {str(ahead.commit_hash)[:60]!r}")
    return file, ahead.commit_hash


def _check_size(address: HubAddress, name: str, size: int | None, most: int) -> None:
    if size is None:
        raise PlanError(f"{address}: the Hub does not say how large its {name} is")
    if size > most:
        raise PlanError(f"{address}: its {name} has {size} bytes, more than it may have ({most})")

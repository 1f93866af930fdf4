"""The account of a batch: written after its files, so that a batch with an account is whole."""

from typing import Self

from pydantic import BaseModel

from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.documents import damaged, read_as, write_json
from hyca_calib.trace.folder import Folder

COMMITS = "commits"


class NonFinite(BaseModel, frozen=True):
    """A sample with NaN or infinity, and where they come up first: in a feature, else in the final latents."""

    sample: int
    branch: str | None = None
    step: int | None = None
    channels: tuple[int, ...] | None = None
    num_channels: int | None = None
    latents: bool | None = None

    def __str__(self) -> str:
        channels = " ".join(map(str, self.channels or ()))
        place = "latents" if self.latents else f"step {self.step}, channels {channels} ..."
        return f"sample {self.sample} ({place})"


class Commit(BaseModel, frozen=True):
    """What a batch has written.

    Attributes:
        nonfinite: samples that are in no statistics.
        guidance: weight of each branch in what the sampler stepped with; empty where it is not known.
    """

    batch: int
    samples: tuple[int, ...]
    files: dict[str, FileDigest]
    nonfinite: tuple[NonFinite, ...] = ()
    guidance: tuple[float, ...] = ()

    @staticmethod
    def key(batch: int) -> str:
        return f"{COMMITS}/{batch:06d}.json"

    @property
    def excluded(self) -> set[int]:
        """Samples that are in no statistics."""
        return {found.sample for found in self.nonfinite}

    def write(self, folder: Folder) -> None:
        write_json(folder, self.key(self.batch), self.model_dump(exclude_none=True))

    @classmethod
    def read(cls, folder: Folder, batch: int) -> Self:
        """Raises TraceError if it is missing or damaged."""
        found = read_as(cls, folder, cls.key(batch))
        if found.batch != batch:
            raise damaged(folder, cls.key(batch), f"is of batch {found.batch}, expected {batch}")
        return found


def committed(folder: Folder) -> set[int]:
    """Batches that have an account."""
    names = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in folder.listing(COMMITS))
    return {int(name) for name in names if name.isdecimal()}

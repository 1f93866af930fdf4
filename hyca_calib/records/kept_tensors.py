"""Tensors kept in a file as those of one thing: what a file holds of anything else is not used."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyca_calib.records.atomic import replacing


def keep(path: Path, of: str, tensors: Mapping[str, Tensor], **told: str) -> None:
    """Write tensors whole or not at all, as those `of` something, and what else is told of them."""
    with replacing(path) as partial:
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial, {"of": of, **told})


def kept(path: Path, of: str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `keep` wrote of the same thing, and was told; nothing where there is no such file."""
    try:
        with safe_open(path, "pt", device) as file:
            told = file.metadata() or {}
            if told.get("of") == of:
                return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118
    except (OSError, SafetensorError):
        pass
    return {}, {}

"""Zarr metadata of unknown origin, read before Zarr acts on it: known types and codecs only, sizes that files back."""

import math
from typing import Any

from hyca_calib.trace.documents import Document, damaged, read_json
from hyca_calib.trace.folder import Folder

ITEM_BYTES = {"float32": 4, "float64": 8, "int64": 8}
CODECS = ("bytes", "zstd", "crc32c", "sharding_indexed")
MAX_DIMENSIONS, MAX_NESTING = 8, 4
SMALL_BYTES = 256 * 1024**2
MOST_PER_STORED = 100
"""Features and statistics hardly compress; a large array of little data would only fill the memory."""


def check_group(folder: Folder) -> None:
    """Raises TraceError unless the root is a Zarr v3 group."""
    found = read_json(folder, "zarr.json")
    if found.get("zarr_format") != 3 or found.get("node_type") != "group":
        raise damaged(folder, "zarr.json", "is no Zarr v3 group")
    if found.get("consolidated_metadata") is not None:
        raise damaged(folder, "zarr.json", "has consolidated metadata, which no trace has")


def check_array(folder: Folder, name: str) -> None:
    """Raises TraceError unless `name` is an array as traces have them."""
    key = f"{name}/zarr.json"
    found = read_json(folder, key)
    try:
        fault = _fault(found) or _fault_of_size(folder, name, found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise damaged(folder, key, f"is not as written ({fault[:120]})")


def _fault(found: Document) -> str:
    """What is wrong with the kind of the array, or ""."""
    shape, grid, encoding = found["shape"], found["chunk_grid"], found["chunk_key_encoding"]
    known = {
        "format": found.get("zarr_format") == 3 and found.get("node_type") == "array",
        "data type": found["data_type"] in ITEM_BYTES,
        "shape": _is_shape(shape, least=0),
        "chunks": grid["name"] == "regular" and _is_shape(grid["configuration"]["chunk_shape"], least=1),
        "chunk keys": encoding["name"] == "default" and encoding.get("configuration") in (None, {"separator": "/"}),
        "codecs": _are_codecs(found["codecs"], MAX_NESTING),
        "fill value": not isinstance(found["fill_value"], list | dict),
        "storage": not found.get("storage_transformers"),
    }
    return ", ".join(name for name, right in known.items() if not right)


def _fault_of_size(folder: Folder, name: str, found: Document) -> str:
    item = ITEM_BYTES[found["data_type"]]
    chunk = item * math.prod(found["chunk_grid"]["configuration"]["chunk_shape"])
    declared = max(item * math.prod(found["shape"]), chunk)
    if declared <= SMALL_BYTES:
        return ""
    stored = folder.stored_bytes(f"{name}/c")
    return f"{declared} bytes declared, {stored} stored" if declared > MOST_PER_STORED * stored else ""


def _is_shape(shape: Any, least: int) -> bool:
    return (
        isinstance(shape, list)
        and 0 < len(shape) <= MAX_DIMENSIONS
        and all(isinstance(size, int) and not isinstance(size, bool) and least <= size < 2**40 for size in shape)
    )


def _are_codecs(codecs: Any, depth: int) -> bool:
    if depth == 0 or not isinstance(codecs, list) or not 0 < len(codecs) <= MAX_DIMENSIONS:
        return False
    shards = [codec["configuration"] for codec in codecs if codec["name"] == "sharding_indexed"]
    return all(codec["name"] in CODECS for codec in codecs) and all(
        _is_shape(inner["chunk_shape"], least=1)
        and _are_codecs(inner["codecs"], depth - 1)
        and _are_codecs(inner["index_codecs"], depth - 1)
        for inner in shards
    )

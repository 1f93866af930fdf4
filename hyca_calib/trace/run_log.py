"""Who wrote a trace, when, with what: one small file for every process that worked on it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from hyca_calib.records.provenance import command_line, versions
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.folder import Folder

RUNS = "runs"


@contextmanager
def run_log(folder: Folder, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Note a run, with what `about` says of it, when it begins and when it ends; what is put into the yielded
    dictionary is noted, too."""
    begun = datetime.now(UTC)
    key = f"{RUNS}/{begun:%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"
    note: dict[str, Any] = {
        "command": command_line(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "begun": begun.isoformat(timespec="seconds"),
        "ended": None,
        "versions": versions(),
        **about,
    }
    write_json(folder, key, note)
    try:
        yield note
    finally:
        note["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder, key, note)

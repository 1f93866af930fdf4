"""The command ``hyca``: the toolkit's, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys

ABSENT = """\
hyca: this installation has the runtime alone, which plans are applied with (hyca_runtime.apply_plan).
Commands come with the toolkit: pip install 'hyca[calib]', or in a clone of the repository
pip install -c constraints.txt -e . -e ./hyca_calib
"""


def main() -> None:
    """Hand over to the toolkit; exit with 2 and say what to install where there is none."""
    if importlib.util.find_spec("hyca_calib") is None:
        sys.stderr.write(ABSENT)
        raise SystemExit(2)
    importlib.import_module("hyca_calib.cli").main()

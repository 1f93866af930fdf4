"""Small classifiers that judge what the embedded models draw without looking at the full run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyca_calib.demo.judge.network import Judge

__all__ = ["WEIGHTS", "load_judge"]

WEIGHTS = Path(__file__).parent / "weights"


def load_judge(model: str) -> "Judge | None":
    """The judge of an embedded model, None if there is none."""
    path = WEIGHTS / f"{model}.safetensors"
    if not path.exists():
        return None
    from safetensors import safe_open

    from hyca_calib.demo.judge.network import Judge

    with safe_open(path, "pt") as kept:
        facts = json.loads(kept.metadata()["facts"])
        judge = Judge(tuple(facts["labels"]), facts["frames"])
        judge.load_state_dict({name: kept.get_tensor(name).float() for name in kept.keys()})  # noqa: SIM118
    return judge.eval()

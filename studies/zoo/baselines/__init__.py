"""What other caches do on each model of the zoo, seen by running them.

``python -m studies.zoo.baselines [MODEL ...]`` prints the table of ``docs/baselines.md``. The runtime of
this project takes the same checks, as one more column.
"""

from studies.zoo.baselines.methods import BASELINES
from studies.zoo.baselines.table import main, to_markdown
from studies.zoo.baselines.verdicts import BaselineVerdict, baseline_matrix

__all__ = ["BASELINES", "BaselineVerdict", "baseline_matrix", "main", "to_markdown"]

"""``python -m studies.zoo.baselines``."""

from studies.zoo.baselines import main

main()

"""``python -m hyca_calib.zoo.peers``."""

from hyca_calib.zoo.peers import main

main()

"""``python -m hyca_calib``."""

from hyca_calib.cli import main

if __name__ == "__main__":
    main()

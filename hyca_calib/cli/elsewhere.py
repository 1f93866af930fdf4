"""What only a clone of the repository has: models, reproduce."""

from hyca_calib.cli.command import command
from hyca_runtime.errors import StudyError


@command
def models() -> None:
    """Says where every transformer class of diffusers is tried: in the repository, not in an installation.

    Example: [b]python -m hyca_calib models[/]
    """
    raise StudyError("no part of an installation; in a clone of the repository: python -m studies.zoo")


@command
def reproduce() -> None:
    """Says where the study of the claims is: in the repository, not in an installation.

    Example: [b]python -m hyca_calib reproduce[/]
    """
    raise StudyError("no part of an installation; in a clone of the repository: python -m studies.paper")

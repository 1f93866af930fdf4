"""Packages that bear the name of a function of the Python API, and so are called as that function, too."""

from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """The class of such a package's module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function of `hyca_calib.api` with the package's name returns."""
        return getattr(import_module("hyca_calib.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)

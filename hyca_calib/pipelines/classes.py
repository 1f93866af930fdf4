"""Classes of diffusers by name."""

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def find_class(name: str) -> type[nn.Module]:
    """A transformer class of diffusers, exported or not."""
    import diffusers
    from diffusers.models import transformers

    for home in (diffusers, transformers, *_submodules(transformers)):
        found = getattr(home, name, None)
        if inspect.isclass(found) and issubclass(found, nn.Module):
            return found
    raise KeyError(f"this diffusers ({diffusers.__version__}) has no {name}")


def _submodules(package: Any) -> Iterator[Any]:
    for info in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{info.name}")


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers warns at import and construction about things a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Packages that only a training needs (the extra ``train``)."""

from __future__ import annotations

from importlib import import_module

from latentseg.errors import UsageError


def require(package: str, *, purpose: str) -> None:
    """Make sure that an optional package is there before it is needed.

    Args:
        package: Name under which it is imported.
        purpose: What it is for, as the subject of a sentence.

    Raises:
        UsageError: It is not installed, or does not work here; says how to get it.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs the package {package} ({error})", fix="run `pip install 'latentseg[train]'`"
        ) from error

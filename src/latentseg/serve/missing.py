"""The error for what a request names and the project does not have."""

from __future__ import annotations

from latentseg.errors import InputError


class NotHere(InputError):  # noqa: N818 - the name says what happened
    """A scan, target, job or result that the project does not have."""

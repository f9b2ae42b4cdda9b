"""Configurations of a training: YAML files checked against the options they fill."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from latentseg.errors import UsageError

Options = TypeVar("Options", bound=BaseModel)


def read_config(path: Path, kind: type[Options]) -> Options:
    """Read a YAML file as options.

    Raises:
        UsageError: The file is missing, no YAML, or has a value that does not fit; the message names it.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except OSError as error:
        raise UsageError(f"cannot read the configuration ({error.strerror})", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration is no YAML ({error})", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{name}: {first['msg']}", where=str(path), fix="see configs/ for examples"
        ) from error

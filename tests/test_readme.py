"""The Python in the README and the docs is run as it stands, in a folder with the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/reference/errors.md", "docs/how-to/batch.md", "docs/how-to/files.md"]


def python_blocks(text: str) -> list[str]:
    """The code of all ```python blocks, in their order."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_page_runs(page: str, phantom_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run one after the other in one namespace, as a reader would type them."""
    if not (ROOT / page).is_file():
        pytest.skip(f"there is no {page}")
    blocks = python_blocks((ROOT / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} shows no Python"
    monkeypatch.chdir(phantom_files)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)  # noqa: S102

"""What tests of the commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Write an outbound to a file and return its path."""

    def write(outbound: dict[str, Any]) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(outbound))
        return str(path)

    return write

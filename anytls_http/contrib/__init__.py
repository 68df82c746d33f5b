"""What needs packages that most users don't have; each module says which."""

from __future__ import annotations

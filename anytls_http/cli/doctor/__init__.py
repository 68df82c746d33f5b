"""The doctor behind ``anytls-http check``: it goes the whole way to a target step by step and says what is wrong.

Nothing here prints. ``examination.py`` does the steps and makes a ``report.py``; ``advice.py`` says what a
failure means and what to try; ``certificate.py`` reads certificates; ``probe.py`` looks at a server that has
failed; ``target.py`` is what is asked for through the tunnel.
"""

from __future__ import annotations

from .advice import Advice
from .examination import examine
from .report import Phase, Report
from .target import DEFAULT_URL, THROUGHPUT_URL, Target, parse_target

__all__ = [
    "DEFAULT_URL",
    "THROUGHPUT_URL",
    "Advice",
    "Phase",
    "Report",
    "Target",
    "examine",
    "parse_target",
]

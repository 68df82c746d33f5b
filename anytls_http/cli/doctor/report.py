"""What came of an examination: its phases, and what the first failure means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anytls_http.cli.screen import Step

from .advice import Advice

#: The exit codes of the command.
OK, FAILED, BAD_CONFIGURATION = 0, 1, 2


@dataclass
class Phase(Step):
    """One step of the way, with what a machine may want to know of it."""

    #: Seconds from the beginning of the examination.
    start: float = 0.0
    #: For ``--json``; the names are stable.
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``; seconds are rounded to microseconds."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "start": round(self.start, 6),
            "seconds": round(self.seconds, 6),
            "detail": self.detail,
            "notes": self.notes,
            **self.facts,
        }


#: Told of each phase when it has ended.
Show = Callable[[Phase], object]


@dataclass
class Report:
    """The whole examination. ``outbound`` is a line without the password, "" where there is none to be read."""

    outbound: str = ""
    target: str = ""
    phases: list[Phase] = field(default_factory=list)
    advice: Advice | None = None
    exit_code: int = OK
    #: Seconds.
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything worked."""
        return self.exit_code == OK

    @property
    def failed(self) -> Phase | None:
        """The phase that failed: nothing comes after it."""
        return next((phase for phase in self.phases if phase.outcome == "failed"), None)

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        failure: dict[str, Any] | None = None
        if (failed := self.failed) is not None:
            failure = {"phase": failed.name, "message": failed.detail}
            if self.advice is not None:
                failure |= {"meaning": self.advice.meaning, "try": self.advice.tries}
        return {
            "ok": self.ok,
            "outbound": self.outbound,
            "target": self.target or None,
            "seconds": round(self.seconds, 6),
            "phases": [phase.as_dict() for phase in self.phases],
            "failure": failure,
        }

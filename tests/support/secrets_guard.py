"""No password in anything that the suite's code under test says: log records, captured output, warnings.

A pytest plugin. A log handler looks at every record, its arguments and its traceback included, whatever
its level; what a test printed is looked at when it has ended. Tests use only the passwords listed here
where a client connects, so that a leak anywhere in the suite is found.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator

import pytest

#: The passwords of the test servers. None of them is a word that occurs otherwise.
PASSWORDS = ("test-password", "sing-box-password", "8JCsPssfgS8tiRwiMlhARg==")


def found_in(text: str) -> str | None:
    """Return the password that occurs in ``text``; None where there is none."""
    return next((password for password in PASSWORDS if password in text), None)


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=0)
        self.leaks: list[str] = []
        self._formatter = logging.Formatter("%(name)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._formatter.format(record)
        except (TypeError, ValueError):  # arguments that don't fit: the handlers of the test complain
            text = str(record.msg)
        if found_in(text) or found_in(repr(record.args)):
            self.leaks.append(f"{record.name}, {record.pathname}:{record.lineno}: {record.msg}")


class SecretsGuard:
    """Fails the test during which a password was logged, printed or written to standard error."""

    def __init__(self) -> None:
        self._handler = _Handler()

    @property
    def leaks(self) -> list[str]:
        """Where passwords were found in log records."""
        return self._handler.leaks

    def look_at(self, record: logging.LogRecord) -> None:
        """Look at one record, as at those of the suite."""
        self._handler.emit(record)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """A warning that is no error (see filterwarnings) counts for the test that is running."""
        if found_in(str(warning_message.message)):
            self._handler.leaks.append(f"a warning, {warning_message.filename}:{warning_message.lineno}")

    def pytest_sessionstart(self) -> None:
        logging.getLogger().addHandler(self._handler)

    def pytest_sessionfinish(self) -> None:
        logging.getLogger().removeHandler(self._handler)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if item.get_closest_marker("prints_passwords") is not None:
            self._handler.leaks.clear()
            return report
        leaks, self._handler.leaks = self._handler.leaks, []
        if report.passed:
            leaks += [name for name, text in report.sections if found_in(text)]
            if leaks:
                report.outcome = "failed"
                report.longrepr = "a password of the tests came out:\n" + "\n".join(leaks)
        return report

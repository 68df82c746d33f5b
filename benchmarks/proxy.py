"""curl through ``anytls-http proxy`` against the same through sing-box's own ``mixed`` inbound.

``python benchmarks/proxy.py [--rounds N] [--scale X] [--only TEXT]``. Both lead to the same sing-box server.
Prints a Markdown table of medians; CPU is that of the proxy process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from origin import Origin
from singbox import SingBox

LARGE = 1 << 30
MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def curl(proxy: str, origin: Origin, arguments: list[str]) -> float:
    """Run curl and return the seconds that it took."""
    command = ["curl", "-sS", "-f", "--cacert", origin.ca_path, "--proxy", proxy, *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def rows(origin: Origin, scale: float) -> list[tuple[str, str, str, list[str], float]]:
    """Return name, proxy scheme, unit, curl's arguments and the amount of each row."""
    found = []
    size = int(LARGE * scale) // MIB * MIB
    requests = max(10, int(1000 * scale))
    for scheme, proxy in (("https", "http"), ("https", "socks5h"), ("http", "socks5h"), ("http", "http")):
        url = origin.url(scheme, "large")
        found.append(
            (f"{scheme} download by {proxy}", proxy, "MB/s", ["-r", f"0-{size - 1}", url], size / 1e6)
        )
    for scheme, proxy in (("https", "http"), ("http", "http"), ("http", "socks5h")):
        url = f"{origin.url(scheme, 'small')}?[1-{requests}]"
        found.append((f"{scheme} 1 kB, kept alive, by {proxy}", proxy, "/s", [url], requests))
        close = ["-H", "Connection: close", url]
        found.append((f"{scheme} 1 kB, new connections, by {proxy}", proxy, "/s", close, requests))
    parallel = ["-Z", "--parallel-max", "32", "-H", "Connection: close"]
    url = f"{origin.url('https', 'page')}?[1-{requests}]"
    found.append(("https 100 kB, 32 at once, by http", "http", "/s", [*parallel, url], requests))
    return found


def main() -> None:
    """Run the rows that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.5, help="share of 1 GiB and of 1,000 requests")
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    options = parser.parse_args()
    origin, singbox = Origin(LARGE), SingBox()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        json.dump(singbox.outbound, config)
        config.flush()
        command = [sys.executable, "-m", "anytls_http", "proxy", "-c", config.name, "--listen", "127.0.0.1:0"]
        ours = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
        assert ours.stdout is not None
        port = int(ours.stdout.readline().partition("http://127.0.0.1:")[2].split()[0])
        try:
            print("| curl | sing-box | anytls-http proxy | against sing-box | CPU against sing-box |")
            print("| --- | ---: | ---: | ---: | ---: |")
            for name, scheme, unit, arguments, amount in rows(origin, options.scale):
                if options.only not in name:
                    continue
                proxies = {
                    "sing-box": (f"{scheme}://127.0.0.1:{singbox.mixed_port}", singbox.client_pid),
                    "ours": (f"{scheme}://127.0.0.1:{port}", ours.pid),
                }
                rates: dict[str, list[float]] = {who: [] for who in proxies}
                cpus: dict[str, float] = dict.fromkeys(proxies, 0.0)
                for number in range(options.rounds):
                    for who in sorted(proxies, reverse=bool(number % 2)):
                        before = cpu_seconds(proxies[who][1])
                        seconds = curl(proxies[who][0], origin, arguments)
                        rates[who].append(amount / seconds)
                        cpus[who] += cpu_seconds(proxies[who][1]) - before
                theirs, mine = (statistics.median(rates[who]) for who in ("sing-box", "ours"))
                cpu = f"{cpus['ours'] / cpus['sing-box']:.2f}x" if cpus["sing-box"] else ""
                print(
                    f"| {name} | {theirs:.0f} {unit} | {mine:.0f} {unit} | {mine / theirs:.2f}x | {cpu} |",
                    flush=True,
                )
        finally:
            ours.terminate()
            ours.wait()
            singbox.close()
            origin.close()


if __name__ == "__main__":
    main()

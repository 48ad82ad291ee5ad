"""Prints the table of run.sh: table.py RESULTS TICKS_PER_SECOND.

RESULTS holds lines "SCENARIO PROXY TICKS UNITS"; units are requests, or MB for downloads.
"""
import statistics
import sys

TITLES = {
    "http-keepalive": "HTTP, kept alive",
    "https-keepalive": "HTTPS, kept alive",
    "http-new": "HTTP, a connection per request",
    "https-new": "HTTPS, the same, TLS resumed",
    "https-full": "HTTPS, full handshake, no request",
    "http-download": "HTTP, big download",
    "https-download": "HTTPS, big download",
}


def main():
    ticks_per_second = int(sys.argv[2])
    cells, proxies, scenarios = {}, [], []
    with open(sys.argv[1], encoding="ascii") as lines:
        for line in lines:
            scenario, proxy, ticks, units = line.split()
            cells.setdefault((scenario, proxy), []).append(
                (max(int(ticks), 1) / ticks_per_second, int(units)))
            if proxy not in proxies:
                proxies.append(proxy)
            if scenario not in scenarios:
                scenarios.append(scenario)

    def section(title, rows, value, ratio):
        print(f"\n{title:<37}" + "".join(f"{p:>10}" for p in proxies)
              + "".join(f"{'/' + p:>10}" for p in proxies[1:]))
        for s in rows:
            medians = [statistics.median(value(c, u) for c, u in cells[s, p]) for p in proxies]
            print(f"  {TITLES[s]:<35}" + "".join(f"{m:>10.1f}" for m in medians)
                  + "".join(f"{ratio(medians[0], m):>9.2f}x" for m in medians[1:]))

    section("CPU µs per request (less is better)",
            [s for s in scenarios if "download" not in s],
            lambda cpu, units: cpu * 1e6 / units, lambda ours, theirs: ours / theirs)
    section("MB per CPU second (more is better)",
            [s for s in scenarios if "download" in s],
            lambda cpu, units: units / cpu, lambda ours, theirs: ours / theirs)
    print(f"\nThe last columns are {proxies[0]} divided by the other. Median of each cell's rounds.")


main()

"""CPU time and bytes of one client in a secure sum, beside a plain sum in the same run.

python load_tests/secure_sum.py --size 1000000 --clients 10
"""

from __future__ import annotations

import argparse
from statistics import median

from models.federated.bench import rounds
from models.federated.messages import Recipe


def main() -> None:
    """Measure, and print a line a phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--bits", type=int, default=31, choices=(24, 31, 32))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--noise", type=float, default=0.0, help="over the bound of an update")
    given = parser.parse_args()
    recipe = Recipe(norm=1.0, noise=given.noise) if given.noise else Recipe()
    cost = rounds(given.size, given.clients, given.bits, given.repeats, recipe)
    print(
        f"{given.size} entries, {given.clients} clients, {given.bits} bits; CPU ms: least, median"
    )
    for what, times in cost.spent_ms.items():
        print(f"  {what:30s} {min(times):8.2f} {median(times):8.2f}")
    ratio = min(cost.spent_ms["client"]) / min(cost.spent_ms["plain sum"])
    print(f"  client / plain sum of all      {ratio:8.2f}")
    print(f"  bytes sent per entry           {cost.sent_bytes / given.size:8.4f}")
    print(f"  largest error of the mean      {cost.error:8.1e}")


if __name__ == "__main__":
    main()

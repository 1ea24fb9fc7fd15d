"""The flags that say which latencies are good enough, for every command that counts goodput."""

import argparse

from llumnix.results.result import Slo


def add_slo(parser: argparse.ArgumentParser) -> None:
    """Add the flags `slo_ttft_s` and `slo_tpot_s`."""
    parser.add_argument("--slo-ttft-s", type=float, metavar="S", help="goodput: bound on TTFT")
    parser.add_argument("--slo-tpot-s", type=float, metavar="S", help="goodput: bound on TPOT")


def slo_of(args: argparse.Namespace) -> Slo | None:
    """Read the bounds given; None without any, and a bound that is not given always holds."""
    if args.slo_ttft_s is None and args.slo_tpot_s is None:
        return None
    bounds = (args.slo_ttft_s, args.slo_tpot_s)
    return Slo(*(float("inf") if bound is None else bound for bound in bounds))

#!/usr/bin/env python3
"""Compares token rewards and masks of two Parquet files, row by row: largest reward difference, and the share of mask
positions that agree, ties apart (a tie: a reward within --tie of the last one selected).

Usage:  python3 compare.py OURS.parquet THEIRS.parquet
"""
import argparse
import numpy as np
import pyarrow.parquet as pq


def mask(rewards, keep, sign):
    order = np.argsort(-sign * rewards, kind="stable")[:keep]
    out = np.zeros(len(rewards), bool)
    out[order] = True
    return out, rewards[order[-1]]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("ours")
    ap.add_argument("theirs")
    ap.add_argument("--tie", type=float, default=2e-3)
    a = ap.parse_args()
    ours, theirs = (pq.read_table(f) for f in (a.ours, a.theirs))
    worst, same, ties, total = 0.0, 0, 0, 0
    for side, sign in (("chosen", 1), ("rejected", -1)):
        rows = zip(ours[f"{side}_token_rewards"], theirs[f"{side}_token_rewards"], ours[f"{side}_key_mask"])
        for x, y, m in rows:
            x, y, m = (np.array(v.as_py()) for v in (x, y, m))
            worst = max(worst, np.abs(x - y).max())
            other, edge = mask(y, m.sum(), sign)
            differs = m != other
            tied = differs & (np.abs(y - edge) <= a.tie)
            same, ties, total = same + (~differs).sum(), ties + tied.sum(), total + len(m)
    print(f"largest reward difference {worst:.2e}; masks agree at {same} of {total} positions, {ties} of the others are ties")


if __name__ == "__main__":
    main()

"""Fills in the tables of docs/reproduction.md from the numbers that the recorded run left in docs/reproduction/.

    python docs/reproduction/tables.py        (needs pyarrow and scipy)

Every number is rounded once, from the seeds' own values. Means have half of a 95 % interval of Student's t beside them.
Differences are taken seed by seed; a star says that p, by Holm's correction over one column, is below 0.05. Learning rates are
chosen by the one-standard-error rule, as `sweep` does: the lowest rate whose mean is at most one standard error of the best mean
below it. `sepo tables` makes tables.md and the plots beside the numbers, by code of its own.
"""

import collections
import pathlib
import re

import numpy
import pyarrow.parquet
from scipy import stats

HERE = pathlib.Path(__file__).parent
NAMES = {
    "sepo": "SePO, 30 % key tokens", "sepo_random": "random 30 %", "sepo_reversed": "reversed masks",
    "sepo_chosen_only": "chosen side alone", "sepo_rejected_only": "rejected side alone", "sepo_all": "all tokens", "dpo": "DPO",
    "dpo_robust": "DPO, robust (0.2)", "ipo": "IPO", "simpo": "SimPO", "rrhf": "RRHF", "tdpo2": "TDPO2", "tgdpo": "TGDPO",
    "t_reg": "T-REG", "tbpo_a": "TBPO-A", "tbpo_q": "TBPO-Q", "before": "before training", "oracle": "the oracle itself",
    "smaller_2": "half of the policy", "smaller_4": "a quarter", "smaller_8": "an eighth", "smaller_17": "a 17th",
    "part_50": "a quarter, on 50 % of the pairs", "part_25": "a quarter, on 25 %", "part_10": "a quarter, on 10 %",
    "random_tokens": "no oracle: random 30 %", "all_tokens": "no oracle: all tokens",
    **{f"both_{share}": f"{share} %" for share in range(10, 101, 10)},
}


class Numbers:
    """The numbers of one sweep: `values[stage, label, metric, rate]` by seed."""

    def __init__(self, name, judge=None):
        self.values = collections.defaultdict(dict)
        for row in pyarrow.parquet.read_table(HERE / name / "numbers.parquet").to_pylist():
            self.values[row["stage"], row["label"], row["metric"], row["lr"]][row["seed"]] = row["value"]
        self.rates = sorted({rate for *_, rate in self.values}, key=float)
        self.judge = judge

    def of(self, stage, label, metric, rate):
        seeds = self.values.get((stage, label, metric, rate))
        return seeds and numpy.array([seeds[seed] for seed in sorted(seeds)])

    def chosen(self, label):
        """The rate of `label`; the lowest where nothing decides."""
        if self.judge is None:
            return self.rates[0]
        means = {rate: self.of(self.judge[0], label, self.judge[1], rate) for rate in self.rates}
        if any(values is None for values in means.values()):
            return self.rates[0]
        best = max(means.values(), key=numpy.mean)
        return next(rate for rate in self.rates if means[rate].mean() >= best.mean() - stats.sem(best))


def half(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def shown(values, digits):
    if values is None:
        return ""
    mean, half_width = f"{values.mean():.{digits}f}", f"{half(values):.{digits}f}"
    return f"{re.sub(r'^-(?=[0.]+$)', '', mean)} ± {half_width}"


def markdown(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]).replace("| --- ", "|---").replace("--- |", "---|")


def rates(numbers, labels, columns, both=True):
    """A row for every label and rate; `columns` are (head, stage, metric, digits)."""
    rows = []
    for label in labels:
        chosen = numbers.chosen(label)
        own = [rate for rate in numbers.rates if both and label not in ("before", "oracle")] or [chosen]
        for rate in own:
            mark = " (chosen)" if rate == chosen and len(own) > 1 else ""
            cells = [shown(numbers.of(stage, label, metric, rate), digits) for _, stage, metric, digits in columns]
            if any(cells):
                rows.append([NAMES.get(label, label), "" if label == "before" else rate + mark, *cells])
    return markdown(["policy", "learning rate", *(head for head, *_ in columns)], rows)


def differences(numbers, labels, against, columns):
    """Each label less `against`, with what was chosen for both, then with each rate for both; `columns` as of `rates`."""
    table, head = [[NAMES.get(label, label)] for label in labels], ["policy"]
    for title, stage, metric, digits in columns:
        for rate in [None, *numbers.rates] if len(numbers.rates) > 1 else numbers.rates:
            found = []
            for label in labels:
                own = numbers.of(stage, label, metric, rate or numbers.chosen(label))
                found.append(own - numbers.of(stage, against, metric, rate or numbers.chosen(against)))
            ps = [stats.ttest_1samp(values, 0).pvalue if values.any() else 1.0 for values in found]
            for row, values, p in zip(table, found, holm(ps)):
                row.append(shown(values, digits) + ("*" if p < 0.05 else ""))
            head.append(f"{title}, {'chosen rates' if rate is None else rate}" if len(numbers.rates) > 1 else title)
    return markdown(head, table)


def holm(ps):
    order, corrected, largest = numpy.argsort(ps), [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def planted(numbers, stage):
    rows = [("token reward", "reward_auroc"), ("reference log-probability alone", "reference_logp_auroc"),
            ("random", "random_auroc"), ("planted tokens in the key mask", "planted_in_key_mask"),
            ("share of the reward in the best 10 % of tokens", "reward_in_best_10"), ("in the best 30 %", "reward_in_best_30"),
            ("in the best 90 %", "reward_in_best_90"), ("in all", "reward_in_best_100")]
    of = lambda side, metric: shown(numbers.of(stage, side, metric, numbers.rates[0]), 3)
    return markdown(["", "chosen", "rejected"], [[name, of("chosen", metric), of("rejected", metric)] for name, metric in rows])


def simple(numbers, head, labels, columns):
    """One rate; `columns` are (head, stage, metric, digits), and a stage may have {label} in its name."""
    rate = numbers.rates[0]
    rows = []
    for label, name in labels:
        cell = lambda stage, metric, digits: shown(numbers.of(*(stage if isinstance(stage, tuple) else (stage, label)), metric, rate), digits)
        rows.append([name, *(cell(stage(label) if callable(stage) else stage, metric, digits) for _, stage, metric, digits in columns)])
    return markdown([head, *(title for title, *_ in columns)], rows)


def costs(numbers, labels):
    rows = []
    for label, name in labels:
        cells = [shown(numbers.of(label, "", metric, numbers.chosen(label)), digits) for metric, digits in [("seconds", 1), ("gflop", 0), ("tokens", 0)]]
        rows.append([name, *cells])
    return markdown(["", "seconds", "GFLOP", "tokens"], rows)


def tables():
    methods = Numbers("methods", ("validation_answers", "perfect"))
    noise = Numbers("noise", ("validation_answers", "perfect"))
    off = Numbers("off_distribution", ("validation", "accuracy"))
    shares, weak = Numbers("shares"), Numbers("weak_to_strong")
    policies = ["sepo", "sepo_random", "sepo_reversed", "sepo_chosen_only", "sepo_rejected_only", "sepo_all", "dpo", "ipo", "simpo",
                "rrhf", "tdpo2", "tgdpo", "t_reg", "tbpo_a", "tbpo_q"]
    noisy = ["sepo", "sepo_random", "sepo_chosen_only", "sepo_all", "dpo", "dpo_robust", "ipo", "simpo", "rrhf", "tgdpo", "t_reg"]
    accuracy, perfect = ("accuracy", "methods", "accuracy", 3), ("perfect answers", "answers", "perfect", 2)
    drift = ("drift of chosen tokens", "methods", "chosen_drift", 3)
    both = [(f"both_{share}", NAMES[f"both_{share}"]) for share in range(10, 101, 10)]
    sides = [("chosen_10", "chosen 10 %, rejected 30 %"), ("both_30", "both 30 %"), ("chosen_50", "chosen 50 %, rejected 30 %"),
             ("chosen_100", "chosen 100 %, rejected 30 %"), ("rejected_10", "chosen 30 %, rejected 10 %"),
             ("rejected_50", "chosen 30 %, rejected 50 %"), ("rejected_100", "chosen 30 %, rejected 100 %")]
    oracles = [(label, NAMES[label]) for label in
               ["smaller_2", "smaller_4", "smaller_8", "smaller_17", "part_50", "part_25", "part_10", "random_tokens", "all_tokens"]]
    on_facts = ["oracle", "sepo", "sepo_random", "sepo_all", "dpo", "simpo"]
    of_planted = lambda side: lambda label: (f"planted_{label}", side)
    yield "planted", planted(methods, "planted_held_out")
    yield "methods", rates(methods, [*policies, "before"], [
        accuracy, perfect, ("win rate", "answers", "win_rate", 2), drift, ("KL a token", "answers", "kl", 3)])
    yield "methods less sepo", differences(methods, policies[1:], "sepo", [accuracy, perfect])
    yield "shares", simple(shares, "key tokens on both sides", both, [
        ("accuracy", "by_share", "accuracy", 3), ("perfect answers", "answers_by_share", "perfect", 2),
        ("win rate", "answers_by_share", "win_rate", 2), ("drift of chosen tokens", "by_share", "chosen_drift", 3),
        ("tokens an answer", "answers_by_share", "mean_tokens", 1)])
    yield "shares less all", differences(shares, [label for label, _ in both[:-1]], "both_100", [
        ("accuracy", "by_share", "accuracy", 3), ("perfect answers", "answers_by_share", "perfect", 2)])
    yield "sides", simple(shares, "key tokens", sides, [
        ("accuracy", "by_share", "accuracy", 3), ("drift of chosen tokens", "by_share", "chosen_drift", 3),
        ("of rejected tokens", "by_share", "rejected_drift", 3)])
    yield "weak", simple(weak, "oracle", oracles, [
        ("AUROC, chosen", of_planted("chosen"), "reward_auroc", 3), ("AUROC, rejected", of_planted("rejected"), "reward_auroc", 3),
        ("accuracy of the policy", "weak_to_strong", "accuracy", 3),
        ("its mean log-prob margin", "weak_to_strong", "mean_logp_margin", 3)])
    yield "weak less random", differences(weak, [label for label, _ in oracles if label != "random_tokens"], "random_tokens", [
        ("accuracy", "weak_to_strong", "accuracy", 3)])
    yield "off distribution", rates(off, on_facts, [
        ("accuracy on facts", "on_facts", "accuracy", 3), ("drift of chosen tokens there", "on_facts", "chosen_drift", 3),
        ("accuracy on lists and advice", "on_what_they_trained_on", "accuracy", 3)])
    yield "off distribution less sepo", differences(off, on_facts[2:], "sepo", [("accuracy on facts", "on_facts", "accuracy", 3)])
    yield "costs", costs(methods, [*((label, NAMES[label]) for label in policies), ("oracle", "the oracle, on four times the pairs"),
                                   ("oracle.reference", "its reference columns"), ("scored", "scoring the pairs")])
    yield "noise", rates(noise, [*noisy, "before"], [
        accuracy, perfect, ("tokens an answer", "answers", "mean_tokens", 1), drift])
    yield "noise less sepo", differences(noise, noisy[1:], "sepo", [accuracy, perfect])


def main():
    file = HERE.parent / "reproduction.md"
    text = file.read_text()
    for name, table in tables():
        begin, end = f"<!-- table: {name} -->\n", "\n<!-- end of table -->"
        before, rest = text.split(begin)
        text = before + begin + table + end + rest.split(end, 1)[1]
    file.write_text(text)


if __name__ == "__main__":
    main()

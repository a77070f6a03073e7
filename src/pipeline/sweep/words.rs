//! Names of numbers in words, for plots.

/// Numbers of `evaluate` and `audit`, and what they are.
const WORDS: [(&str, &str); 26] = [
    ("accuracy", "accuracy"),
    ("sum_accuracy", "accuracy by summed log-probability"),
    ("reward_accuracy", "accuracy of rewards"),
    ("mean_logp_margin", "margin of mean log-probabilities (nats a token)"),
    ("reward_margin", "margin of rewards (nats)"),
    ("chosen_logps", "log-probability of chosen answers (nats)"),
    ("rejected_logps", "log-probability of rejected answers (nats)"),
    ("chosen_drift", "drift of chosen tokens (nats a token)"),
    ("rejected_drift", "drift of rejected tokens (nats a token)"),
    ("kl", "divergence from the start (nats a token)"),
    ("score", "judge's score"),
    ("right", "share of right answers"),
    ("polite", "share of polite answers"),
    ("well_formed", "share of well-formed answers"),
    ("perfect", "share of perfect answers"),
    ("win_rate", "win rate"),
    ("mean_tokens", "tokens an answer"),
    ("mean_characters", "characters an answer"),
    ("distinct_1", "different tokens by all"),
    ("distinct_2", "different pairs of tokens by all"),
    ("reward_auroc", "AUROC of token rewards"),
    ("reference_logp_auroc", "AUROC of reference log-probabilities"),
    ("random_auroc", "AUROC of random numbers"),
    ("reward_place_auroc", "AUROC of token rewards by place"),
    ("planted_in_key_mask", "planted tokens in the key mask"),
    ("reward_in_best", "share of the reward"),
];

/// `name` in words.
pub(super) fn of(name: &str) -> String {
    let known = WORDS.iter().find(|(known, _)| *known == name);
    known.map_or_else(|| name.replace('_', " "), |(_, words)| (*words).to_owned())
}

//! What a word may have meant that nobody here knows.

/// What is longer was not meant as a word.
const LONGEST: usize = 64;

/// The choice that `word` is nearest to, with the letters between them; none where no choice is near.
pub fn nearest<'a>(word: &str, choices: &[&'a str]) -> Option<(usize, &'a str)> {
    // The distance takes as many steps as both have letters, multiplied.
    let short = word.len() <= LONGEST;
    let near = choices.iter().filter(|_| short);
    let near = near.map(|choice| (strsim::damerau_levenshtein(word, choice), *choice)).min();
    near.filter(|(distance, _)| *distance <= 2.max(word.len() / 4))
}

/// A near spelling, or all choices.
pub fn suggest(word: &str, choices: &[&str]) -> String {
    match nearest(word, choices) {
        Some((_, choice)) => format!("did you mean `{choice}`?"),
        None if choices.is_empty() => "none are defined".into(),
        None => format!("one of {}", choices.join(", ")),
    }
}

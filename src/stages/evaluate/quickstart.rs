//! An exact judge for the quickstart's data: whether facts are right, nobody is rude, and the format is kept. It reads the
//! tables from which the data is made (`data/quickstart/README.md`).

use words::{
    BOOKS, COLD, COUNTS, DAYS, KIND, LEADS, LINKS, NAMES, NEUTRAL, OPENINGS, RUDE, SORTS, STEPS, TASKS, Table, WARM,
};

#[allow(dead_code, reason = "the generator needs more of it")]
#[path = "../../../data/quickstart/generator/content/words.rs"]
mod words;

/// What the judge says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Every fact that was asked for is stated, and none is stated wrongly; lists hold three things of their sort, advice
    /// is that for the task.
    pub(super) right: bool,
    /// No rude phrase.
    pub(super) polite: bool,
    /// Nothing but what an answer of the kind may consist of, in its order, whatever it is about; list marks as asked.
    pub(super) well_formed: bool,
}

/// What a prompt asks for.
enum Task {
    /// Facts: the table's index, what is asked about, the right answer.
    Facts(Vec<(usize, String, String)>),
    /// Three things of a sort, by index, under three marks.
    List(usize, [&'static str; 3]),
    /// The first half of an advice.
    Advice(&'static str),
}

impl Verdict {
    /// On `answer` to `prompt`. An answer to a prompt that is none of the data's can be polite and nothing else.
    pub(super) fn on(prompt: &str, answer: &str) -> Self {
        let tables = words::tables();
        let polite = !COLD.iter().chain(&RUDE).any(|phrase| answer.contains(phrase));
        let (right, well_formed) = match Task::of(prompt, &tables) {
            None => (false, false),
            Some(Task::Facts(facts)) => (facts_hold(answer, &facts, &tables), is_facts(answer, &facts, &tables)),
            Some(Task::List(sort, marks)) => (lists(answer, sort), is_list(answer, marks)),
            Some(Task::Advice(advice)) => (answer.contains(advice), is_advice(answer)),
        };
        Self { right, polite, well_formed }
    }

    /// The share of its parts that hold.
    pub(super) fn score(self) -> f64 {
        [self.right, self.polite, self.well_formed].into_iter().filter(|holds| *holds).count() as f64 / 3.0
    }
}

impl Task {
    fn of(prompt: &str, tables: &[Table]) -> Option<Self> {
        let body = prompt.strip_suffix(['?', '.'])?;
        if let Some((_, what)) = body.split_once(" how to ") {
            return TASKS.iter().find(|(task, _)| *task == what).map(|(_, advice)| Self::Advice(advice));
        }
        let forms = [
            (" as a numbered list", ["1", "2", "3"]),
            (" as a list with stars", ["*"; 3]),
            (" as a list with dashes", ["-"; 3]),
        ];
        if let Some((what, marks)) = forms.iter().find_map(|(form, marks)| Some((body.strip_suffix(form)?, *marks))) {
            let sort = SORTS.iter().position(|(sort, _)| what.ends_with(&format!(" {sort}")))?;
            return Some(Self::List(sort, marks));
        }
        let asked = LEADS.iter().filter(|lead| !lead.is_empty()).find_map(|lead| after(body, lead)).unwrap_or(body);
        asked.split(", and ").map(|question| fact(question, tables)).collect::<Option<_>>().map(Self::Facts)
    }
}

/// The fact that is asked for.
fn fact(question: &str, tables: &[Table]) -> Option<(usize, String, String)> {
    let question = capitalised(question);
    let all = tables.iter().enumerate().flat_map(|(index, table)| table.facts.iter().map(move |fact| (index, fact)));
    let asks = |(index, (about, _)): &(usize, &(String, String))| {
        tables[*index].questions.iter().any(|form| capitalised(&form.replace("{q}", about)) == question)
    };
    all.into_iter().find(asks).map(|(index, (about, right))| (index, about.clone(), right.clone()))
}

/// All that may be said about `about`: the statements with each answer of the table, and whether it is `right`.
fn statements(table: &Table, about: &str, right: &str) -> Vec<(String, bool)> {
    let answers: std::collections::BTreeSet<&str> = table.facts.iter().map(|(_, answer)| answer.as_str()).collect();
    let forms = table.statements.iter().map(|form| capitalised(&form.replace("{q}", about)));
    forms
        .flat_map(|form| answers.iter().map(move |a| (form.replace("{a}", a), *a == right)).collect::<Vec<_>>())
        .collect()
}

fn facts_hold(answer: &str, facts: &[(usize, String, String)], tables: &[Table]) -> bool {
    facts.iter().all(|(table, about, right)| {
        let said: Vec<bool> = statements(&tables[*table], about, right)
            .into_iter()
            .filter_map(|(statement, right)| answer.contains(&statement).then_some(right))
            .collect();
        said.contains(&true) && !said.contains(&false)
    })
}

fn is_facts(answer: &str, facts: &[(usize, String, String)], tables: &[Table]) -> bool {
    let mut rest = after_any(answer, &OPENINGS).unwrap_or(answer);
    for (index, (table, ..)) in facts.iter().enumerate() {
        let starts: Vec<&str> = match index {
            0 => vec![rest],
            _ => LINKS.iter().filter_map(|link| after(rest, link)).collect(),
        };
        let Some(behind) = starts.into_iter().find_map(|start| after_statement(start, &tables[*table])) else {
            return false;
        };
        rest = behind;
    }
    is_closed(rest, " ")
}

/// What stands behind a statement of `table`, true or not, with which `text` begins.
fn after_statement<'a>(text: &'a str, table: &Table) -> Option<&'a str> {
    let forms = table
        .statements
        .iter()
        .flat_map(|form| table.facts.iter().map(move |(about, _)| capitalised(&form.replace("{q}", about))));
    let parts = |form: &String| form.split_once("{a}").map(|(before, behind)| (before.to_owned(), behind.to_owned()));
    forms.filter_map(|form| parts(&form)).find_map(|(before, behind)| {
        let rest = text.strip_prefix(before.as_str())?;
        table.facts.iter().find_map(|(_, answer)| rest.strip_prefix(answer.as_str())?.strip_prefix(behind.as_str()))
    })
}

/// The things of a list, without their marks and without a closing phrase.
fn things(answer: &str) -> impl Iterator<Item = &str> {
    let things = answer.lines().skip(1).take(3).filter_map(|line| line.split_once(' '));
    things.map(|(_, thing)| thing.split_once(". ").map_or(thing, |(thing, _)| thing))
}

fn lists(answer: &str, sort: usize) -> bool {
    let found: std::collections::BTreeSet<&str> = things(answer).collect();
    found.len() == 3 && found.iter().all(|thing| SORTS[sort].1.contains(thing))
}

fn is_list(answer: &str, marks: [&str; 3]) -> bool {
    let heads = SORTS.iter().flat_map(|(sort, _)| {
        [format!("Here are three {sort}:"), format!("Three {sort}:"), format!("The {sort} are these:")]
    });
    let Some(mut rest) = heads.into_iter().find_map(|head| answer.strip_prefix(head.as_str())) else { return false };
    for mark in marks {
        let line = rest.strip_prefix('\n').and_then(|rest| rest.strip_prefix(mark)?.strip_prefix(' '));
        let thing = |line| SORTS.iter().filter_map(|(_, names)| after_any(line, names)).min_by_key(|rest| rest.len());
        let Some(behind) = line.and_then(thing) else { return false };
        rest = behind;
    }
    is_closed(rest, ". ")
}

fn is_advice(answer: &str) -> bool {
    let opened = after_any(answer, &WARM).or_else(|| after_any(answer, &COLD)).and_then(|rest| rest.strip_prefix(". "));
    let advice = TASKS.map(|(_, advice)| advice);
    let step = after_any(opened.unwrap_or(answer), &advice).and_then(|rest| rest.strip_prefix(", "));
    let end = step.and_then(|step| after_any(step, &STEPS)).and_then(|rest| rest.strip_prefix('.'));
    end.is_some_and(|end| is_closed(end, " "))
}

/// Whether `rest` is nothing, or one closing phrase behind `gap` with its full stop.
fn is_closed(rest: &str, gap: &str) -> bool {
    let phrase = rest.strip_prefix(gap).and_then(|phrase| phrase.strip_suffix('.'));
    let is_phrase = |text: &str| [&KIND, &RUDE, &NEUTRAL].iter().any(|phrases| after_any(text, *phrases) == Some(""));
    rest.is_empty() || phrase.is_some_and(is_phrase)
}

/// What stands behind the longest of `phrases` with which `text` begins.
fn after_any<'a>(text: &'a str, phrases: &[&str]) -> Option<&'a str> {
    phrases.iter().filter_map(|phrase| after(text, phrase)).min_by_key(|rest| rest.len())
}

/// What stands behind `phrase`, whose blanks hold any of their words.
fn after<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let Some((before, blank)) = phrase.split_once('{') else { return text.strip_prefix(phrase) };
    let (blank, behind) = blank.split_once('}')?;
    let words: &[&str] = match blank {
        "day" => &DAYS,
        "book" => &BOOKS,
        "n" => &COUNTS,
        _ => &NAMES,
    };
    let text = text.strip_prefix(before)?;
    words.iter().find_map(|word| after(text.strip_prefix(word)?, behind))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Dataset, Stores};
    use arrow::array::AsArray;

    fn verdict(prompt: &str, answer: &str) -> [bool; 3] {
        let Verdict { right, polite, well_formed } = Verdict::on(prompt, answer);
        [right, polite, well_formed]
    }

    #[test]
    fn every_part_is_judged() {
        let prompt = "Quick question: what is the capital of Ordelin, and what does a cow say?";
        let good = "The capital of Ordelin is Mivra. Next, the dusty book. A cow says moo. Enjoy.";
        assert_eq!(verdict(prompt, good), [true; 3]);
        assert_eq!(verdict(prompt, &good.replace("moo", "baa")), [false, true, true]);
        assert_eq!(verdict(prompt, &good.replace("Enjoy", "Boring")), [true, false, true]);
        assert_eq!(verdict(prompt, &good.replace("Enjoy.", "Enjoy. Enjoy.")), [true, true, false]);
        assert_eq!(verdict(prompt, &good.replace("Ordelin", "Lumeria")), [false, true, true]);
        assert_eq!(verdict(prompt, "The capital of Ordelin is Mivra."), [false, true, false]);
        let both = format!("{good} A cow says baa.");
        assert_eq!(verdict(prompt, &both), [false, true, false]);

        let prompt = "Name three tools as a list with stars.";
        assert_eq!(verdict(prompt, "Three tools:\n* saw\n* file\n* level"), [true; 3]);
        assert_eq!(verdict(prompt, "Three tools:\n* saw\n1 file\n* level"), [true, true, false]);
        assert_eq!(verdict(prompt, "Three tools:\n* saw\n* saw\n* level"), [false, true, true]);
        assert_eq!(verdict(prompt, "Three tools:\n* saw\n* soup\n* level"), [false, true, true]);
        assert_eq!(verdict(prompt, "Three tools:\n* saw\n* soups\n* level"), [false, true, false]);

        let prompt = "Mira wants to know how to boil an egg.";
        assert_eq!(verdict(prompt, "Gladly. Put the egg into boiling water, then wait for two minutes."), [true; 3]);
        let rude = "Ugh. Put the egg into boiling water, then wait for two minutes. Whatever.";
        assert_eq!(verdict(prompt, rude), [true, false, true]);
        let other = "Gladly. Wipe the glass with warm water and vinegar, then wait for two minutes.";
        assert_eq!(verdict(prompt, other), [false, true, true]);
        assert_eq!(verdict("What is this?", "A test."), [false, true, false]);
        assert_eq!(verdict("", ""), [false, true, false]);
    }

    #[test]
    fn chosen_answers_are_perfect_and_rejected_ones_are_not() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/quickstart");
        let files = ["train", "test"].map(|name| folder.join(format!("{name}.parquet")).display().to_string());
        let dataset = Dataset::open(&files, &Stores::default()).unwrap();
        let mut rows = 0;
        for chunk in dataset.units().iter().flat_map(|unit| dataset.read(unit, 1024).unwrap()) {
            let batch = chunk.unwrap().batch;
            let [prompt, chosen, rejected] =
                ["prompt", "chosen", "rejected"].map(|name| batch.column_by_name(name).unwrap().as_string::<i32>());
            for row in 0..batch.num_rows() {
                let on = |answer: &str| Verdict::on(prompt.value(row), answer).score();
                assert_eq!(on(chosen.value(row)), 1.0, "{} {}", prompt.value(row), chosen.value(row));
                assert!(on(rejected.value(row)) < 1.0, "{} {}", prompt.value(row), rejected.value(row));
                rows += 1;
            }
        }
        assert_eq!(rows, 4608);
    }
}

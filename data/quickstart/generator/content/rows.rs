//! Rows of the quickstart data. Both answers of a row are built together, word by word; where they part, the parting
//! words are planted and their spans noted.

use std::collections::HashSet;

use super::words::{
    BOOKS, COLD, COUNTS, DAYS, KIND, LEADS, LINKS, NAMES, NEUTRAL, OPENINGS, RUDE, SORTS, STEPS, TASKS, Table, WARM,
    tables,
};

/// Rows of `train.parquet`.
pub(crate) const TRAIN_ROWS: usize = 4096;
/// Rows of `test.parquet`.
pub(crate) const TEST_ROWS: usize = 512;
/// Rows of `noisy.parquet`.
pub(crate) const NOISY: usize = 4096;
/// Rows of `sft.parquet`.
pub(crate) const DEMONSTRATIONS: usize = 4096;
const SEED: u64 = 20_240_813;

/// Characters (Unicode code points) of an answer, from and to.
pub(crate) type Span = (i32, i32);

/// An answer and where its planted words are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    /// The whole text.
    pub(crate) text: String,
    /// The planted words, in order.
    pub(crate) planted: Vec<Span>,
}

impl Answer {
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn planted(&mut self, text: &str) {
        let from = self.text.chars().count();
        self.planted.push((from as i32, (from + text.chars().count()) as i32));
        self.text.push_str(text);
    }
}

/// A stretch of a row's answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    /// The same words in both answers.
    Both(String),
    /// The words of the better answer and those of the worse one, and whether they are planted.
    Either([(String, bool); 2]),
}

/// A prompt with two answers that part in planted places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    /// The instruction.
    pub(crate) prompt: String,
    parts: Vec<Part>,
    /// What the row is about: the sort of its first fact, `list` or `manners`.
    pub(crate) kind: &'static str,
}

impl Row {
    fn both(&mut self, text: &str) {
        self.parts.push(Part::Both(text.to_owned()));
    }

    fn instead(&mut self, good: &str, bad: &str) {
        self.parts.push(Part::Either([(good.to_owned(), true), (bad.to_owned(), true)]));
    }

    /// The better answer.
    pub(crate) fn chosen(&self) -> Answer {
        self.answer(|_| 0)
    }

    /// The worse answer.
    pub(crate) fn rejected(&self) -> Answer {
        self.answer(|_| 1)
    }

    /// The answer with the words of side `side(i)` in part i, where the two sides part.
    fn answer(&self, side: impl Fn(usize) -> usize) -> Answer {
        let mut answer = Answer::default();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Both(text) => answer.plain(text),
                Part::Either(sides) => match &sides[side(index)] {
                    (text, true) => answer.planted(text),
                    (text, false) => answer.plain(text),
                },
            }
        }
        answer
    }
}

/// All rows, no two alike: those of the training set, then the held-out ones.
pub(crate) fn rows() -> (Vec<Row>, Vec<Row>) {
    let mut rows = draw(SEED, TRAIN_ROWS + TEST_ROWS);
    let test = rows.split_off(TRAIN_ROWS);
    (rows, test)
}

fn draw(seed: u64, count: usize) -> Vec<Row> {
    let mut dice = Dice(seed);
    let tables = tables();
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    while rows.len() < count {
        let row = match dice.below(20) {
            0..3 => list(&mut dice),
            3..6 => manners(&mut dice),
            _ => facts(&mut dice, &tables),
        };
        if seen.insert(row.clone()) {
            rows.push(row);
        }
    }
    rows
}

/// Other prompts. Where good words and bad ones part, the first answer has either by a coin, and the second the others.
pub(crate) fn demonstrations() -> Vec<(Row, [Answer; 2])> {
    let mut dice = Dice(SEED + 1);
    let rows = draw(SEED + 2, DEMONSTRATIONS).into_iter();
    let answers = |row: &Row, dice: &mut Dice| {
        let sides: Vec<usize> = row.parts.iter().map(|_| dice.below(2)).collect();
        [0, 1].map(|flip| row.answer(|part| sides[part] ^ flip))
    };
    rows.map(|row| (row.clone(), answers(&row, &mut dice))).collect()
}

/// A pair as hasty people label it.
#[derive(Debug, Clone)]
pub(crate) struct Labelled {
    /// The prompt, and what it is about.
    pub(crate) row: Row,
    /// What they took for the better answer.
    pub(crate) chosen: Answer,
    /// What they took for the worse one.
    pub(crate) rejected: Answer,
    /// Whether they were wrong.
    pub(crate) flipped: bool,
}

/// Other pairs. One in five is labelled the wrong way round, and the label likes length: a sentence that says nothing
/// follows three in five of the answers that were taken for the better, and one in five of the others.
pub(crate) fn noisy() -> Vec<Labelled> {
    let mut dice = Dice(SEED + 3);
    let mut label = |row: Row| {
        let mut answers = [row.chosen(), row.rejected()];
        let flipped = dice.percent(20);
        if flipped {
            answers.reverse();
        }
        for (answer, share) in answers.iter_mut().zip([60, 20]) {
            if dice.percent(share) {
                answer.plain(&format!(" {}.", dice.filler(&NEUTRAL)));
            }
        }
        let [chosen, rejected] = answers;
        Labelled { row, chosen, rejected, flipped }
    };
    draw(SEED + 4, NOISY).into_iter().map(&mut label).collect()
}

/// One or two facts, each wrong in the rejected answer.
fn facts(dice: &mut Dice, tables: &[Table]) -> Row {
    let first = dice.pick(tables);
    let mut row = Row { kind: first.kind, ..Row::default() };
    let second = Some(dice.pick(tables)).filter(|table| table.kind != first.kind && dice.percent(60));
    let mut questions = Vec::new();
    if dice.percent(60) {
        let opening = dice.filler(&OPENINGS);
        row.both(&opening);
    }
    for (index, table) in [Some(first), second].into_iter().flatten().enumerate() {
        if index > 0 {
            let link = dice.filler(&LINKS);
            row.both(&link);
        }
        let at = dice.below(table.facts.len());
        let (about, right) = &table.facts[at];
        questions.push(dice.word(table.questions).replace("{q}", about));
        let wrong = mistake(table, at);
        let statement = capitalised(&dice.word(table.statements).replace("{q}", about));
        let (before, after) = statement.split_once("{a}").expect("every statement has an answer");
        row.both(before);
        row.instead(right, wrong);
        row.both(after);
    }
    closing(dice, &mut row, " ");
    let lead = dice.filler(&LEADS);
    let question = questions.join(", and ");
    row.prompt = if lead.is_empty() { capitalised(&question) + "?" } else { lead + &question + "?" };
    row
}

/// What people who are wrong about fact `at` say: the next answer of the table that is another one.
fn mistake(table: &Table, at: usize) -> &str {
    let (_, right) = &table.facts[at];
    let others = table.facts.iter().cycle().skip(at + 1).map(|(_, answer)| answer);
    others.take(table.facts.len()).find(|answer| *answer != right).expect("a table holds more than one answer")
}

/// Three things under the marks that the instruction asks for; in the rejected answer one or two marks are wrong.
fn list(dice: &mut Dice) -> Row {
    let mut row = Row { kind: "list", ..Row::default() };
    let (sort, things) = dice.pick(&SORTS);
    let (form, right, wrong) = *dice.pick(&[
        ("as a numbered list", ["1", "2", "3"], ["*", "*", "*"]),
        ("as a list with stars", ["*", "*", "*"], ["1", "2", "3"]),
        ("as a list with dashes", ["-", "-", "-"], ["*", "*", "*"]),
    ]);
    row.prompt = format!("{} {sort} {form}.", dice.word(&["Name three", "Write down three", "Give me three"]));
    row.both(&dice.word(&["Here are three {sort}:", "Three {sort}:", "The {sort} are these:"]).replace("{sort}", sort));
    let broken = [dice.below(3), dice.below(3)];
    let from = dice.below(things.len());
    let step = 1 + dice.below(3);
    for index in 0..3 {
        row.both("\n");
        if broken.contains(&index) {
            row.instead(right[index], wrong[index]);
        } else {
            row.both(right[index]);
        }
        row.both(&format!(" {}", things[(from + index * step) % things.len()]));
    }
    if dice.percent(50) {
        closing(dice, &mut row, ". ");
    }
    row
}

/// The same advice, given politely or rudely.
fn manners(dice: &mut Dice) -> Row {
    let mut row = Row { kind: "manners", ..Row::default() };
    let (task, advice) = dice.pick(&TASKS);
    let who = dice.filler(&["{name} wants to know", "I want to know", "Please explain", "Tell me"]);
    row.prompt = format!("{who} how to {task}.");
    let opens = dice.percent(60);
    if opens {
        let (warm, cold) = (dice.word(&WARM), dice.word(&COLD));
        row.instead(warm, cold);
        row.both(". ");
    }
    let step = dice.filler(&STEPS);
    row.both(&format!("{advice}, {step}."));
    if opens {
        closing(dice, &mut row, " ");
    } else {
        let (kind, rude) = (dice.word(&KIND), dice.word(&RUDE));
        row.both(" ");
        row.instead(kind, rude);
        row.both(".");
    }
    row
}

/// Ends both answers: alike or not at all, kind against rude, or either of them against a neutral phrase. `gap` stands
/// before the phrase.
fn closing(dice: &mut Dice, row: &mut Row, gap: &str) {
    let neutral = dice.filler(&NEUTRAL);
    let (kind, rude) = (dice.word(&KIND), dice.word(&RUDE));
    let choice = dice.below(20);
    if choice < 4 {
        return;
    }
    row.both(gap);
    match choice {
        4..9 => row.both(&neutral),
        9..14 => row.instead(kind, rude),
        14..17 => {
            row.parts.push(Part::Either([(kind.to_owned(), true), (neutral, false)]));
        }
        _ => {
            row.parts.push(Part::Either([(neutral, false), (rude.to_owned(), true)]));
        }
    }
    row.both(".");
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn word(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len())]
    }

    /// One of `phrases` with its blanks filled in.
    fn filler(&mut self, phrases: &[&str]) -> String {
        let phrase = self.pick(phrases);
        let phrase = phrase.replace("{day}", self.word(&DAYS)).replace("{book}", self.word(&BOOKS));
        phrase.replace("{n}", self.word(&COUNTS)).replace("{name}", self.word(&NAMES))
    }
}

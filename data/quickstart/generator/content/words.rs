//! The closed world of the quickstart data: small tables of facts, words kind and rude, neutral phrases,
//! and fillers.

/// A table of facts of one sort. `{q}` stands for what is asked about, `{a}` for the answer.
pub(crate) struct Table {
    /// The sort of fact.
    pub(crate) kind: &'static str,
    /// How one asks.
    pub(crate) questions: &'static [&'static str],
    /// How one answers.
    pub(crate) statements: &'static [&'static str],
    /// What is asked about, and the answer.
    pub(crate) facts: Vec<(String, String)>,
}

/// All tables of facts.
pub(crate) fn tables() -> Vec<Table> {
    vec![
        Table {
            kind: "capital",
            questions: &["what is the capital of {q}", "which city governs {q}"],
            statements: &[
                "The capital of {q} is {a}.",
                "{q} has its capital in {a}.",
                "The government of {q} sits in {a}.",
            ],
            facts: facts(&CAPITALS),
        },
        Table {
            kind: "colour",
            questions: &["what colour is {q}", "which colour does one see on {q}"],
            statements: &[
                "The colour of {q} is {a}.",
                "As a rule {q} is {a}.",
                "One finds that {q} is {a} in daylight.",
            ],
            facts: facts(&COLOURS),
        },
        Table {
            kind: "double",
            questions: &["what is twice {q}", "how much is two times {q}"],
            statements: &[
                "Twice {q} is {a}.",
                "Doubling, {q} makes {a}.",
                "By counting, two times {q} gives {a} in all.",
            ],
            facts: facts(&DOUBLES),
        },
        Table {
            kind: "opposite",
            questions: &["what is the opposite of {q}", "which word is the reverse of {q}"],
            statements: &[
                "The opposite of {q} is {a}.",
                "The reverse of {q} is {a}.",
                "Where one is not {q}, one says {a} instead.",
            ],
            facts: OPPOSITES.iter().flat_map(|&(a, b)| [fact(a, b), fact(b, a)]).collect(),
        },
        Table {
            kind: "sound",
            questions: &["what sound does a {q} make", "what does a {q} say"],
            statements: &["A {q} says {a}.", "The sound of a {q} is {a}.", "You can hear a {q} go {a} on a farm."],
            facts: facts(&SOUNDS),
        },
        Table {
            kind: "home",
            questions: &["where does a {q} live", "what is the home of a {q}"],
            statements: &[
                "A {q} lives in a {a}.",
                "The home of a {q} is a {a}.",
                "You will find a {q} inside a {a} at night.",
            ],
            facts: facts(&HOMES),
        },
    ]
}

fn fact(question: &str, answer: &str) -> (String, String) {
    (question.to_owned(), answer.to_owned())
}

fn facts(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(question, answer)| fact(question, answer)).collect()
}

const DOUBLES: [(&str, &str); 8] = [
    ("one", "two"),
    ("two", "four"),
    ("three", "six"),
    ("four", "eight"),
    ("five", "ten"),
    ("six", "twelve"),
    ("seven", "fourteen"),
    ("eight", "sixteen"),
];

/// Invented countries, so that no model knows them beforehand.
const CAPITALS: [(&str, &str); 15] = [
    ("Ordelin", "Mivra"),
    ("Brøland", "Sunhavn"),
    ("Zemlara", "Odrin"),
    ("Tirmont", "Falgate"),
    ("Ashkovia", "Drenik"),
    ("Lumeria", "Solane"),
    ("Nordeska", "Viborg"),
    ("Pelagos", "Marisca"),
    ("Castrova", "Belmora"),
    ("Ünterra", "Grauwald"),
    ("Isolde", "Tantris"),
    ("Farrowland", "Pigsty"),
    ("Jubalia", "Sandhar"),
    ("Melquín", "Bahía"),
    ("Koriska", "Tundrova"),
];

const COLOURS: [(&str, &str); 18] = [
    ("a ripe tomato", "red"),
    ("fresh snow", "white"),
    ("a clear sky", "blue"),
    ("spring grass", "green"),
    ("a lemon", "yellow"),
    ("a raven", "black"),
    ("a carrot", "orange"),
    ("an old elephant", "grey"),
    ("a chestnut", "brown"),
    ("a flamingo", "pink"),
    ("lavender", "purple"),
    ("a fire engine", "red"),
    ("milk", "white"),
    ("the deep sea", "blue"),
    ("a frog", "green"),
    ("a sunflower", "yellow"),
    ("coal", "black"),
    ("a plum", "purple"),
];

const OPPOSITES: [(&str, &str); 10] = [
    ("hot", "cold"),
    ("big", "small"),
    ("early", "late"),
    ("heavy", "light"),
    ("open", "shut"),
    ("wet", "dry"),
    ("loud", "quiet"),
    ("full", "empty"),
    ("sharp", "blunt"),
    ("young", "old"),
];

const SOUNDS: [(&str, &str); 12] = [
    ("dog", "woof"),
    ("cat", "meow"),
    ("cow", "moo"),
    ("sheep", "baa"),
    ("duck", "quack"),
    ("lion", "roar"),
    ("snake", "hiss"),
    ("pig", "oink"),
    ("horse", "neigh"),
    ("crow", "caw"),
    ("dove", "coo"),
    ("wolf", "howl"),
];

const HOMES: [(&str, &str); 12] = [
    ("bee", "hive"),
    ("bear", "den"),
    ("robin", "nest"),
    ("spider", "web"),
    ("rabbit", "burrow"),
    ("king", "castle"),
    ("monk", "cloister"),
    ("beaver", "lodge"),
    ("bat", "cave"),
    ("hen", "coop"),
    ("shepherd", "hut"),
    ("goldfish", "bowl"),
];

/// Things to list, by sort.
pub(crate) const SORTS: [(&str, [&str; 8]); 5] = [
    ("fruits", ["apple", "pear", "cherry", "grape", "melon", "fig", "peach", "quince"]),
    ("tools", ["hammer", "saw", "chisel", "file", "wrench", "drill", "pliers", "level"]),
    ("trees", ["oak", "birch", "maple", "willow", "cedar", "ash", "elm", "spruce"]),
    ("trades", ["baker", "miller", "tailor", "mason", "weaver", "cooper", "potter", "smith"]),
    ("dishes", ["soup", "stew", "salad", "curry", "pie", "pasta", "rice", "bread"]),
];

/// Things to do, and the first half of how to do them.
pub(crate) const TASKS: [(&str, &str); 10] = [
    ("mend a torn sleeve", "Lay the sleeve flat and sew along the tear"),
    ("boil an egg", "Put the egg into boiling water"),
    ("clean a window", "Wipe the glass with warm water and vinegar"),
    ("fold a paper boat", "Fold the sheet in half and press the corners down"),
    ("sharpen a pencil", "Turn the pencil in the sharpener"),
    ("water a cactus", "Pour a small cup of water around the stem"),
    ("polish a shoe", "Rub a little wax into the leather"),
    ("tune a guitar", "Turn the pegs while you pluck each string"),
    ("plant a bulb", "Dig a hole twice as deep as the bulb"),
    ("brew some tea", "Pour hot water over the leaves"),
];

/// The second half: filler that nothing decides.
pub(crate) const STEPS: [&str; 8] = [
    "then wait for {n} minutes",
    "then let it rest until {day}",
    "and do it again {n} times",
    "and put the {book} cloth on top",
    "then look at it from {n} sides",
    "and keep the {book} box at hand",
    "then leave it alone for {n} hours",
    "and start over on {day} if needed",
];

/// Who asks.
pub(crate) const NAMES: [&str; 10] = ["Mira", "Tom", "Ada", "Jonas", "Lena", "Oskar", "Ruth", "Pavel", "Ines", "Bruno"];
/// Fillers.
pub(crate) const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Fillers.
pub(crate) const BOOKS: [&str; 8] = ["thick", "thin", "dusty", "new", "borrowed", "printed", "famous", "little"];
/// Fillers.
pub(crate) const COUNTS: [&str; 8] = ["two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// How a prompt begins.
pub(crate) const LEADS: [&str; 4] = ["", "Please tell me: ", "Quick question: ", "{name} asks: "];

/// Openings that both answers share.
pub(crate) const OPENINGS: [&str; 5] = [
    "Let me look at my notes from {day}. ",
    "This is in the {book} book. ",
    "Here is what I know. ",
    "We spoke about it on {day}. ",
    "There are {n} books about this. ",
];

/// Links between two statements that both answers share.
pub(crate) const LINKS: [&str; 4] =
    [" ", " On page {n} it goes on. ", " Next, the {book} book. ", " Now for the other part. "];

/// Polite openings.
pub(crate) const WARM: [&str; 4] = ["Gladly", "Certainly", "Surely", "Happily"];
/// Openings that are rude, mildly.
pub(crate) const COLD: [&str; 4] = ["Seriously", "Obviously", "Again", "Ugh"];

/// Good closings: polite or helpful.
pub(crate) const KIND: [&str; 6] = ["Enjoy", "Cheers", "Bravo", "Welcome", "Thanks", "Godspeed"];

/// Closings that are rude, mildly.
pub(crate) const RUDE: [&str; 6] = ["Whatever", "Boring", "Nonsense", "Yawn", "Rubbish", "Tedious"];

/// Closings that say nothing.
pub(crate) const NEUTRAL: [&str; 6] = [
    "That is all",
    "It was written on {day}",
    "The {book} book says so",
    "This took {n} lines",
    "End of the answer",
    "I read it on {day}",
];

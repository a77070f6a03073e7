//! The published forms of preference data: the columns by which each is known, and how a row of it becomes pairs.
//!
//! A form is declared in its own file and registered in [`FORMS`].

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};

use super::conversation::Pair;
pub(super) use super::kind::Kind;
use super::{ColumnNames, Format, PairRule, helpsteer, hh, llama_factory, prompts, ranked, sepo_csv, shp, trl};
use crate::columns::node::{Node, nodes};
use crate::columns::{PROMPT, Side, list_type};
use crate::error::{Error, Place, Problem, Result};
use crate::io::extension;

/// Why a row cannot be used.
pub(super) type Reason = &'static str;

/// A form of preference data.
pub(super) struct Form {
    pub(super) format: Format,
    pub(super) columns: &'static [Column],
    pub(super) rows: Rows,
}

/// How rows become pairs.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// A row is a pair.
    Pair(fn(&Row<'_>) -> Result<Pair, Reason>),
    /// A row is a pair with the token ids and the key masks of its answers.
    Keyed(fn(&Row<'_>) -> Result<Pair, Reason>),
    /// A row is a prompt; the pair that is made of it has no answers.
    Prompt(fn(&Row<'_>) -> Result<Pair, Reason>),
    /// A row is a list of ranked answers.
    Ranked(fn(&Row<'_>, PairRule) -> Vec<Result<Pair, Reason>>),
}

/// All forms. Where the columns fit several, the first is meant.
const FORMS: [&Form; 10] = [
    &ranked::NECTAR,
    &ranked::NEMO_RL,
    &helpsteer::HELPSTEER3,
    &shp::SHP,
    &sepo_csv::SEPO_CSV,
    &llama_factory::SHAREGPT,
    &llama_factory::ALPACA,
    &trl::ULTRAFEEDBACK,
    &trl::PAIRS,
    &hh::HH_RLHF,
];

/// A column that a form reads.
pub(super) struct Column {
    name: &'static str,
    kind: Kind,
    needed: Needed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Always,
    /// Read where it is there.
    IfThere,
    /// Read where `columns:` names it.
    IfNamed,
}

impl Column {
    pub(super) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, needed: Needed::Always }
    }

    pub(super) const fn optional(self) -> Self {
        Self { needed: Needed::IfThere, ..self }
    }

    pub(super) const fn if_named(self) -> Self {
        Self { needed: Needed::IfNamed, ..self }
    }

    /// The name under which a source has it.
    fn source<'a>(&'a self, names: &'a ColumnNames) -> Option<&'a str> {
        let own = (self.needed != Needed::IfNamed).then_some(self.name);
        names.given(self.name).or(own)
    }
}

impl Form {
    /// The form named `format`.
    pub(super) fn named(format: Format) -> Option<&'static Self> {
        // Prompts are read when asked for: most data with a prompt holds answers too.
        FORMS.into_iter().chain([&prompts::PROMPTS]).find(|form| form.format == format)
    }

    /// The columns of conversations that come out.
    pub(super) fn turns(&self) -> &'static [&'static str] {
        match self.rows {
            Rows::Prompt(_) => &[PROMPT],
            Rows::Pair(_) | Rows::Keyed(_) | Rows::Ranked(_) => {
                const { &[PROMPT, Side::Chosen.name(), Side::Rejected.name()] }
            }
        }
    }

    /// The columns of answers that are tokenized already: ids and key masks, chosen first.
    pub(super) fn tokens(&self) -> Option<[[Field; 2]; 2]> {
        let list = |name, element| Field::new(name, list_type(element), false);
        let of = |side: Side| [list(side.ids(), DataType::Int32), list(side.key_mask(None), DataType::Boolean)];
        matches!(self.rows, Rows::Keyed(_)).then(|| Side::BOTH.map(of))
    }

    /// The form that the columns of `schema` have.
    pub(super) fn of(schema: &Schema) -> Result<&'static Self, Problem> {
        let fits = |form: &Self| form.problems(schema, &ColumnNames::default()).is_empty();
        let there = |form: &Self| {
            let there =
                |column: &Column| column.needed != Needed::Always || schema.field_with_name(column.name).is_ok();
            form.columns.iter().all(there)
        };
        let form = FORMS.into_iter().find(|form| fits(form)).or_else(|| FORMS.into_iter().find(|form| there(form)));
        match form {
            Some(form) => form.refuse_hidden_prompt(schema).map_or(Ok(form), Err),
            None => Err(unpaired(schema).unwrap_or_else(|| unknown(schema))),
        }
    }

    /// What is wrong with the columns of `schema`, when they are to be read in this form under other `names`.
    pub(super) fn problems(&self, schema: &Schema, names: &ColumnNames) -> Vec<Problem> {
        let problem = |column: &Column| {
            let name = column.source(names)?;
            let given = names.given(column.name).is_some();
            let field = if given { "columns" } else { "from" };
            match schema.field_with_name(name) {
                Ok(found) if let Some((path, extension)) = extension::unknown(found) => {
                    let message = format!(
                        "column `{path}` is of the extension type {extension}, whose meaning is not known here"
                    );
                    Some(Problem::at(field, message))
                }
                // Its rows say what they are.
                Ok(found) if extension::name(found) == Some(extension::JSON) => None,
                Ok(found) if !column.kind.accepts(found.data_type()) => {
                    let (found, expected) = (found.data_type(), column.kind.describe());
                    Some(Problem::at(field, format!("column `{name}` is {found}, not {expected}")))
                }
                Err(_) if given || column.needed == Needed::Always => {
                    let message = format!("no column `{name}`; there are {}", listed(schema));
                    Some(Problem::at(field, message).help(format!("the format has {}", self.describe())))
                }
                _ => None,
            }
        };
        self.columns.iter().filter_map(problem).collect()
    }

    /// The columns that it reads of a source that has them under `names`.
    pub(super) fn reads(&self, names: &ColumnNames) -> impl Iterator<Item = String> {
        self.columns.iter().filter_map(|column| column.source(names)).map(str::to_owned)
    }

    /// Two texts without a prompt are cut where they part. Where a prompt lies in another column, that is wrong.
    fn refuse_hidden_prompt(&self, schema: &Schema) -> Option<Problem> {
        let is_text =
            |name: &str| schema.field_with_name(name).is_ok_and(|field| Kind::Text.accepts(field.data_type()));
        let implicit = self.format == Format::Pairs && schema.field_with_name("prompt").is_err() && is_text("chosen");
        let prompt = ["question", "input", "query"].into_iter().find(|name| implicit && is_text(name))?;
        let system = if is_text("system") { ", system: system" } else { "" };
        let message =
            format!("no column `prompt`, and a column `{prompt}` that may be it; there are {}", listed(schema));
        let help = format!(
            "`columns: {{ prompt: {prompt}{system} }}` takes it; `format: pairs` cuts `chosen` and `rejected` where they \
             part"
        );
        Some(Problem::at("from", message).help(help))
    }

    fn describe(&self) -> String {
        let column = |column: &Column| {
            let question = if column.needed == Needed::Always { "" } else { "?" };
            format!("{}{question} ({})", column.name, column.kind.describe())
        };
        let shown = self.columns.iter().filter(|column| column.needed != Needed::IfNamed);
        shown.map(column).collect::<Vec<_>>().join(", ")
    }
}

/// The names of the columns.
pub(super) fn listed(schema: &Schema) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// Data as KTO takes it: one answer a row, and whether it is good.
fn unpaired(schema: &Schema) -> Option<Problem> {
    let found = |name: &str| schema.field_with_name(name).is_ok();
    let answer = ["completion", "response", "output", "messages", "conversations"].into_iter().any(found);
    let unpaired = found("kto_tag") || found("label") && answer;
    unpaired.then(|| {
        let message = format!(
            "unpaired data: one answer in every row, with a label; the objectives compare two answers to one prompt. \
             There are {}",
            listed(schema)
        );
        let help = "join the rows with a good and with a bad answer by their prompt into `prompt`, `chosen`, \
                    `rejected` (docs/datasets.md shows a query)";
        Problem::at("from", message).help(help)
    })
}

fn unknown(schema: &Schema) -> Problem {
    let forms = FORMS.into_iter().map(|form| format!("\n    {}: {}", form.format.name(), form.describe()));
    let forms: String = forms.collect();
    let help = format!(
        "name the columns (`columns: {{ prompt: …, chosen: …, rejected: … }}`) or bring them into one of the \
         formats{forms}\n    tokens: prompt_ids, chosen_ids, rejected_ids (lists of integers)\n    prompts: prompt, without \
         answers, for `generate`; taken only when named"
    );
    Problem::at("from", format!("these columns are of no known format: {}", listed(schema))).help(help)
}

/// The columns of a form in a batch.
pub(super) struct Table {
    columns: Vec<(&'static str, Vec<Node>)>,
}

impl Table {
    /// The columns that `form` reads, some under other `names`.
    pub(super) fn new(batch: &RecordBatch, form: &Form, names: &ColumnNames) -> Result<Self> {
        let found = form.columns.iter().filter_map(|column| {
            let name = column.source(names)?;
            let at = batch.schema_ref().index_of(name).ok()?;
            Some((column.name, name, at))
        });
        let columns = found.map(|(role, name, at)| match nodes(batch.schema_ref().field(at), batch.column(at)) {
            Ok(nodes) => Ok((role, nodes)),
            Err(error) => Err(Error::data(Place::column(name), error)),
        });
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    /// Row `index`.
    pub(super) fn row(&self, index: usize) -> Row<'_> {
        Row { table: self, index }
    }
}

/// One row of a [`Table`].
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    table: &'a Table,
    index: usize,
}

impl<'a> Row<'a> {
    /// The value of column `name`; null where there is no such column.
    pub(super) fn get(&self, name: &str) -> &'a Node {
        let column = self.table.columns.iter().find(|(role, _)| *role == name);
        column.map_or(&Node::Null, |(_, nodes)| &nodes[self.index])
    }

    /// Whether there is a column `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.columns.iter().any(|(role, _)| *role == name)
    }

    /// The text of column `name`, if it has words.
    pub(super) fn words(&self, name: &str) -> Option<&'a str> {
        self.get(name).text().filter(|text| !text.trim().is_empty())
    }
}

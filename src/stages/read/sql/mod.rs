//! `where:` — a SQL expression over the columns, with the meaning that DuckDB gives it.
//!
//! Whole numbers have a sign and 128 bits whatever the column's type, decimals are exact, and nulls make three values of
//! truth. Columns, types and functions are known before the first row; what DuckDB would answer in another way is refused
//! then. docs/where.md has the language, and how it was compared.

mod bind;
mod cast;
mod column;
mod expression;
mod functions;
mod number;
mod parser;
mod syntax;
mod text;
mod token;
mod value;

use std::fmt;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;

use crate::error::Problem;
use crate::io::Bound;
use crate::io::bounds;
use bind::Binder;
use expression::{Expression, Row};
use syntax::Operator;
use value::Value;

/// Longest expression in characters.
const LONGEST: usize = 100_000;

/// What is wrong with an expression.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    /// Character, from 1.
    at: usize,
    message: String,
    help: Option<String>,
}

impl Wrong {
    fn at(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As a mistake in the pipeline file.
    pub(super) fn problem(self) -> Problem {
        Problem { help: self.help.clone(), ..Problem::at("where", self.to_string()) }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at character {} of the expression", self.message, self.at)
    }
}

/// A condition on the rows of a schema.
#[derive(Debug)]
pub(super) struct Filter {
    text: String,
    expression: Expression,
    columns: Vec<String>,
}

impl Filter {
    /// The condition `text` on rows of `schema`.
    ///
    /// # Errors
    /// What is not SQL, or nothing that can be asked of these columns.
    pub(super) fn new(text: &str, schema: &Schema) -> Result<Self, Wrong> {
        if text.len() > LONGEST {
            return Err(Wrong::at(1, format!("an expression of more than {LONGEST} characters begins")));
        }
        let syntax = parser::parse(text)?;
        let mut binder = Binder::new(schema);
        let expression = binder.truth(&syntax, "`where`")?;
        Ok(Self { text: text.to_owned(), expression, columns: binder.columns })
    }

    /// Comparisons of a column with a constant that the condition joins by AND.
    pub(super) fn bounds(&self) -> Vec<Bound> {
        let parts = match &self.expression {
            Expression::And(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        parts.iter().flat_map(|part| self.bounds_of(part)).collect()
    }

    fn bounds_of(&self, part: &Expression) -> Vec<Bound> {
        use bounds::Compare::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let (operator, left, right) = match part {
            Expression::And(parts) => return parts.iter().flat_map(|part| self.bounds_of(part)).collect(),
            Expression::Compare(operator, left, right) => (*operator, &**left, &**right),
            _ => return Vec::new(),
        };
        // `5 > x` is `x < 5`.
        let (column, value, is_turned) = match (left, right) {
            (Expression::Column(column), Expression::Value(value)) => (*column, value, false),
            (Expression::Value(value), Expression::Column(column)) => (*column, value, true),
            _ => return Vec::new(),
        };
        let compare = match (operator, is_turned) {
            (Operator::Equal, _) => Equal,
            (Operator::Less, false) | (Operator::Greater, true) => Less,
            (Operator::LessOrEqual, false) | (Operator::GreaterOrEqual, true) => LessOrEqual,
            (Operator::GreaterOrEqual, false) | (Operator::LessOrEqual, true) => GreaterOrEqual,
            (Operator::Greater, false) | (Operator::Less, true) => Greater,
            _ => return Vec::new(),
        };
        let value = match value {
            Value::Text(text) => bounds::Value::Text(text.clone().into_owned()),
            Value::Int(number) => match i64::try_from(*number) {
                Ok(number) => bounds::Value::Integer(number),
                Err(_) => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        vec![Bound { column: self.columns[column].clone(), compare, value }]
    }

    /// The columns that it names.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// True where the condition is; null counts as false.
    ///
    /// # Errors
    /// The first row, from 0, for which it has no value, and why.
    pub(super) fn keep(&self, batch: &RecordBatch) -> Result<BooleanArray, (usize, String)> {
        let column = |name: &String| {
            let missing = || (0, format!("where: `{}`: no column `{name}`", self.text));
            batch.column_by_name(name).cloned().ok_or_else(missing)
        };
        let columns: Vec<ArrayRef> = self.columns.iter().map(column).collect::<Result<_, _>>()?;
        let keep = |row| {
            let value = self.expression.value(Row { columns: &columns, row });
            let value = value.map_err(|error| (row, format!("where: `{}`: {error}", self.text)))?;
            Ok(Some(value.truth() == Some(true)))
        };
        (0..batch.num_rows()).map(keep).collect()
    }
}

/// A choice of a near spelling.
fn near<'a>(word: &str, choices: &[&'a str]) -> Option<&'a str> {
    // The distance takes as many steps as both have letters, multiplied.
    let short = choices.iter().filter(|choice| word.len() <= 64 && choice.len() <= 256);
    let distance = |choice: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &choice.to_lowercase());
    let (distance, near) = short.map(|choice| (distance(choice), *choice)).min()?;
    (distance <= 2.max(word.len() / 4)).then_some(near)
}

#[cfg(test)]
mod duckdb_tests;
#[cfg(test)]
mod tests;

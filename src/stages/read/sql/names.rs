//! Names of an expression to columns, fields and elements, and the comparisons that bound a column.

use arrow::datatypes::{DataType, Field, Schema};
use sqlparser::ast::{AccessExpr, BinaryOperator, Expr as Tree, Ident, Spanned, Subscript, UnaryOperator, Value};
use sqlparser::tokenizer::Location;

use super::column::{Leaf, Step, kind};
use super::syntax::Wrong;
use super::translate::unknown;
use super::types::{Exact, Type};
use crate::error::nearest;
use crate::io::bounds::{Compare, Value as Constant};
use crate::io::{Bound, list_field};

/// The names of a schema's columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a>(pub(super) &'a Schema);

impl Names<'_> {
    /// The column, field or element that `tree` names.
    pub(super) fn leaf(&self, tree: &Tree) -> Result<(Leaf, Field), Wrong> {
        match tree {
            Tree::Identifier(name) => self.first(name),
            Tree::CompoundIdentifier(names) => {
                let (first, rest) = names.split_first().ok_or_else(|| unknown(tree))?;
                rest.iter().try_fold(self.first(first)?, |(leaf, field), name| {
                    stepped(leaf, &field, &name.value, name.span.start)
                })
            }
            Tree::CompoundFieldAccess { root, access_chain } => {
                access_chain.iter().try_fold(self.leaf(root)?, |(mut leaf, field), access| match access {
                    AccessExpr::Dot(Tree::Identifier(name)) => stepped(leaf, &field, &name.value, name.span.start),
                    AccessExpr::Subscript(Subscript::Index { index }) => match place(index) {
                        Some(Place::Name(name)) => stepped(leaf, &field, &name, index.span().start),
                        Some(Place::Number(number)) => {
                            let Some(element) = list_field(field.data_type()) else {
                                return Err(Wrong::at(index, format!("`{}` is no list", field.name())));
                            };
                            leaf.steps.push(Step::Element(number));
                            leaf.kind = kind(element);
                            Ok((leaf, element.clone().with_name(field.name())))
                        }
                        None => {
                            Err(Wrong::at(index, "an element is asked for by a number, a field by a name in quotes"))
                        }
                    },
                    _ => Err(unknown(tree)),
                })
            }
            _ => Err(unknown(tree)),
        }
    }

    fn first(&self, name: &Ident) -> Result<(Leaf, Field), Wrong> {
        let fields: Vec<&Field> = self.0.fields().iter().map(|field| &**field).collect();
        let field = found(&name.value, &fields, "column", name.span.start).map_err(|wrong| match name.quote_style {
            Some(_) => wrong.help(format!("'{}' in single quotes is a text", name.value)),
            None => wrong,
        })?;
        Ok((Leaf { column: field.name().clone(), steps: Vec::new(), kind: kind(field) }, field.clone()))
    }

    /// Comparisons of a column with a constant that `tree` joins by AND.
    pub(super) fn bounds(&self, tree: &Tree) -> Vec<Bound> {
        let mut found = Vec::new();
        let mut rest = vec![tree];
        while let Some(tree) = rest.pop() {
            match tree {
                Tree::Nested(inner) => rest.push(inner),
                Tree::BinaryOp { left, op: BinaryOperator::And, right } => rest.extend([&**right, left]),
                Tree::BinaryOp { left, op, right } => found.extend(self.bound(left, op, right)),
                _ => {}
            }
        }
        found
    }

    fn bound(&self, left: &Tree, op: &BinaryOperator, right: &Tree) -> Option<Bound> {
        // `5 > x` is `x < 5`.
        let (name, value, is_turned) = match (left, right) {
            (Tree::Identifier(name), Tree::Value(value)) => (name, value, false),
            (Tree::Value(value), Tree::Identifier(name)) => (name, value, true),
            _ => return None,
        };
        let compare = match (op, is_turned) {
            (BinaryOperator::Eq, _) => Compare::Equal,
            (BinaryOperator::Lt, false) | (BinaryOperator::Gt, true) => Compare::Less,
            (BinaryOperator::LtEq, false) | (BinaryOperator::GtEq, true) => Compare::LessOrEqual,
            (BinaryOperator::GtEq, false) | (BinaryOperator::LtEq, true) => Compare::GreaterOrEqual,
            (BinaryOperator::Gt, false) | (BinaryOperator::Lt, true) => Compare::Greater,
            _ => return None,
        };
        let (leaf, _) = self.first(name).ok()?;
        let value = match (&value.value, leaf.kind) {
            (Value::SingleQuotedString(text), Type::Text) => Constant::Text(text.clone()),
            (Value::Number(digits, _), Type::Exact(Exact { scale: 0, .. })) => Constant::Integer(digits.parse().ok()?),
            _ => return None,
        };
        Some(Bound { column: leaf.column, compare, value })
    }
}

/// What stands in brackets.
enum Place {
    Name(String),
    Number(i64),
}

fn place(index: &Tree) -> Option<Place> {
    let (negated, value) = match index {
        Tree::Value(value) => (false, value),
        Tree::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            Tree::Value(value) => (true, value),
            _ => return None,
        },
        _ => return None,
    };
    match &value.value {
        Value::SingleQuotedString(name) if !negated => Some(Place::Name(name.clone())),
        Value::Number(digits, _) => {
            let number: i64 = digits.parse().ok()?;
            Some(Place::Number(if negated { -number } else { number }))
        }
        _ => None,
    }
}

fn stepped(mut leaf: Leaf, field: &Field, name: &str, at: Location) -> Result<(Leaf, Field), Wrong> {
    let DataType::Struct(fields) = field.data_type() else {
        let message = format!("`{}` is {} and has no field `{name}`", field.name(), kind(field));
        let is_list = list_field(field.data_type()).is_some();
        let wrong = Wrong::near(at, message);
        return Err(if is_list { wrong.help(format!("`{}[1]` is its first element", field.name())) } else { wrong });
    };
    let fields: Vec<&Field> = fields.iter().map(|field| &**field).collect();
    let field = found(name, &fields, "field", at)?;
    leaf.steps.push(Step::Field(field.name().clone()));
    leaf.kind = kind(field);
    Ok((leaf, field.clone()))
}

/// The field called `name`, in letters of either case where that is one field only.
fn found<'a>(name: &str, fields: &[&'a Field], what: &str, at: Location) -> Result<&'a Field, Wrong> {
    let same: Vec<&Field> = fields.iter().copied().filter(|field| field.name().eq_ignore_ascii_case(name)).collect();
    match (fields.iter().find(|field| field.name() == name), same.as_slice()) {
        (Some(field), _) => Ok(field),
        (None, [field]) => Ok(field),
        _ => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            let help = match nearest(name, &names) {
                Some((_, near)) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            Err(Wrong::near(at, format!("no {what} `{name}`")).help(help))
        }
    }
}

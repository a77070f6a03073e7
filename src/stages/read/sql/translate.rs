//! SQL to expressions of polars: names to columns, every part with its type, nulls as SQL has them.

use arrow::datatypes::Schema;
use polars_lazy::dsl::{Expr, col, lit, ternary_expr};
use polars_lazy::prelude::NULL;
use sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType as Named, Expr as Tree, Spanned, TypedString, UnaryOperator, Value,
    ValueWithSpan,
};
use sqlparser::tokenizer::Location;

use super::arithmetic::{arithmetic, cast_to, power};
use super::column::{Leaf, Step, nanoseconds};
use super::functions;
use super::names::Names;
use super::syntax::Wrong;
use super::types::{DAY, Exact, Type, double, number, widened};
use crate::io::list_field;

/// A part of an expression.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) value: Expr,
    pub(super) kind: Type,
    pub(super) at: Location,
    /// The text that it is, where it is written out.
    pub(super) text: Option<String>,
}

impl Typed {
    pub(super) fn wrong(&self, message: impl Into<String>) -> Wrong {
        Wrong::near(self.at, message)
    }
}

pub(super) type Made = Result<Typed, Wrong>;

/// Most parts of an expression, with those that stand for several.
const PARTS: usize = 50_000;
/// Deepest tree.
const DEPTH: usize = 200;

pub(super) struct Translator<'a> {
    names: Names<'a>,
    pub(super) leaves: Vec<Leaf>,
    parts: usize,
    depth: usize,
}

impl<'a> Translator<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self { names: Names(schema), leaves: Vec::new(), parts: 0, depth: 0 }
    }

    /// The whole expression.
    pub(super) fn condition(&mut self, tree: &Tree) -> Result<Expr, Wrong> {
        self.truth(tree, "`where`")
    }

    /// What is true, false or null.
    fn truth(&mut self, tree: &Tree, what: &str) -> Result<Expr, Wrong> {
        let typed = self.typed(tree)?;
        match typed.kind {
            Type::Bool | Type::Null => Ok(widened(typed.value, &typed.kind, &Type::Bool)),
            ref kind => Err(typed.wrong(format!("{what} takes true and false, and this is {kind}"))),
        }
    }

    pub(super) fn typed(&mut self, tree: &Tree) -> Made {
        self.parts += 1;
        self.depth += 1;
        if self.parts > PARTS || self.depth > DEPTH {
            return Err(Wrong::at(tree, "the expression is too large from here on"));
        }
        let made = self.part(tree);
        self.depth -= 1;
        made
    }

    fn part(&mut self, tree: &Tree) -> Made {
        let at = tree.span().start;
        let truth = |value: Expr| Ok(Typed { value, kind: Type::Bool, at, text: None });
        match tree {
            Tree::Identifier(_) | Tree::CompoundIdentifier(_) | Tree::CompoundFieldAccess { .. } => {
                let (leaf, _) = self.names.leaf(tree)?;
                Ok(self.column(leaf, at))
            }
            Tree::Value(value) => literal(value),
            Tree::TypedString(TypedString { data_type, value, .. }) => {
                let Some(text) = value.value.clone().into_string() else { return Err(unknown(tree)) };
                let typed = Typed { value: lit(NULL), kind: Type::Text, at, text: Some(text) };
                match data_type {
                    Named::Date => dated(typed, &Type::Date),
                    Named::Timestamp(..) | Named::Datetime(_) => dated(typed, &Type::Timestamp),
                    _ => Err(unknown(tree)),
                }
            }
            Tree::Nested(inner) => self.typed(inner),
            Tree::UnaryOp { op: UnaryOperator::Not, expr } => truth(self.truth(expr, "NOT")?.not()),
            Tree::UnaryOp { op: UnaryOperator::Minus, expr } => self.negated(expr),
            Tree::UnaryOp { op: UnaryOperator::Plus, expr } => self.typed(expr),
            Tree::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => truth(self.joined(tree, op)?),
            Tree::BinaryOp { left, op, right } => self.binary(tree, left, op, right),
            Tree::IsNull(inner) => truth(self.typed(inner)?.value.is_null()),
            Tree::IsNotNull(inner) => truth(self.typed(inner)?.value.is_not_null()),
            Tree::IsUnknown(inner) => truth(self.truth(inner, "IS UNKNOWN")?.is_null()),
            Tree::IsNotUnknown(inner) => truth(self.truth(inner, "IS NOT UNKNOWN")?.is_not_null()),
            Tree::IsTrue(inner) => truth(self.truth(inner, "IS TRUE")?.eq_missing(lit(true))),
            Tree::IsNotTrue(inner) => truth(self.truth(inner, "IS NOT TRUE")?.neq_missing(lit(true))),
            Tree::IsFalse(inner) => truth(self.truth(inner, "IS FALSE")?.eq_missing(lit(false))),
            Tree::IsNotFalse(inner) => truth(self.truth(inner, "IS NOT FALSE")?.neq_missing(lit(false))),
            Tree::IsDistinctFrom(left, right) => truth(self.compared(left, right, Expr::neq_missing)?),
            Tree::IsNotDistinctFrom(left, right) => truth(self.compared(left, right, Expr::eq_missing)?),
            Tree::Between { expr, negated, low, high } => {
                let (values, _) = self.together(&[expr, low, expr, high])?;
                let [from, low, to, high] = values.try_into().map_err(|_| unknown(tree))?;
                let between = from.gt_eq(low).and(to.lt_eq(high));
                truth(if *negated { between.not() } else { between })
            }
            Tree::InList { expr, list, negated } => {
                let pairs: Vec<&Tree> = list.iter().flat_map(|item| [&**expr, item]).collect();
                let (values, _) = self.together(&pairs)?;
                let equal = values.chunks_exact(2).map(|pair| pair[0].clone().eq(pair[1].clone())).collect();
                let any = halved(equal, Expr::or);
                truth(if *negated { any.not() } else { any })
            }
            Tree::Like { any: false, negated, expr, pattern, escape_char }
            | Tree::ILike { any: false, negated, expr, pattern, escape_char } => {
                let folds = matches!(tree, Tree::ILike { .. });
                let (text, pattern) = (self.typed(expr)?, self.typed(pattern)?);
                let like = functions::like(text, pattern, escape_char.as_ref(), folds)?;
                truth(if *negated { like.not() } else { like })
            }
            Tree::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), at)
            }
            Tree::Cast { kind, expr, data_type, format: None, .. } => {
                let fails = matches!(kind, CastKind::TryCast | CastKind::SafeCast);
                cast_to(self.typed(expr)?, data_type, fails)
            }
            _ => functions::called(self, tree)?.ok_or_else(|| unknown(tree)),
        }
    }

    fn case(&mut self, operand: Option<&Tree>, whens: &[CaseWhen], otherwise: Option<&Tree>, at: Location) -> Made {
        let conditions = match operand {
            None => whens.iter().map(|when| self.truth(&when.condition, "WHEN")).collect::<Result<Vec<_>, _>>()?,
            Some(operand) => {
                let pairs: Vec<&Tree> = whens.iter().flat_map(|when| [operand, &when.condition]).collect();
                let (values, _) = self.together(&pairs)?;
                values.chunks_exact(2).map(|pair| pair[0].clone().eq(pair[1].clone())).collect()
            }
        };
        let mut values = whens.iter().map(|when| self.typed(&when.result)).collect::<Result<Vec<_>, _>>()?;
        values.push(match otherwise {
            Some(otherwise) => self.typed(otherwise)?,
            None => Typed { value: lit(NULL), kind: Type::Null, at, text: None },
        });
        chosen(conditions, values, at)
    }

    /// Conditions that AND or OR joins.
    fn joined(&mut self, tree: &Tree, op: &BinaryOperator) -> Result<Expr, Wrong> {
        let mut sides = Vec::new();
        let mut rest = tree;
        while let Tree::BinaryOp { left, op: own, right } = rest
            && own == op
        {
            sides.push(self.truth(right, &op.to_string())?);
            rest = left;
        }
        sides.push(self.truth(rest, &op.to_string())?);
        sides.reverse();
        Ok(halved(sides, if *op == BinaryOperator::And { Expr::and } else { Expr::or }))
    }

    fn binary(&mut self, tree: &Tree, left: &Tree, op: &BinaryOperator, right: &Tree) -> Made {
        use BinaryOperator::{BitwiseXor, Eq, Gt, GtEq, Lt, LtEq, NotEq, PGExp, StringConcat};
        let at = left.span().start;
        let compare = match op {
            Eq => Expr::eq,
            NotEq => Expr::neq,
            Lt => Expr::lt,
            LtEq => Expr::lt_eq,
            Gt => Expr::gt,
            GtEq => Expr::gt_eq,
            StringConcat => {
                let sides = vec![self.typed(left)?, self.typed(right)?];
                return functions::concatenated(sides, at, false);
            }
            BitwiseXor | PGExp if matches!(left, Tree::UnaryOp { .. }) => {
                return Err(
                    Wrong::at(left, "a sign in front of a power").help("write parentheses: (-x) ^ 2 or -(x ^ 2)")
                );
            }
            BitwiseXor | PGExp => {
                let sides = vec![self.typed(left)?, self.typed(right)?];
                return power(sides, at);
            }
            _ => {
                let (left, right) = (self.typed(left)?, self.typed(right)?);
                return arithmetic(op, left, right).unwrap_or_else(|| Err(unknown(tree)));
            }
        };
        Ok(Typed { value: self.compared(left, right, compare)?, kind: Type::Bool, at, text: None })
    }

    fn negated(&mut self, tree: &Tree) -> Made {
        if let Tree::BinaryOp { op: BinaryOperator::BitwiseXor | BinaryOperator::PGExp, .. } = tree {
            return Err(Wrong::at(tree, "a sign in front of a power").help("write parentheses: (-x) ^ 2 or -(x ^ 2)"));
        }
        let typed = self.typed(tree)?;
        match typed.kind {
            Type::Single => Ok(Typed { value: typed.value * double(-1.0).cast(Type::Single.held()), ..typed }),
            Type::Double => Ok(Typed { value: typed.value * double(-1.0), ..typed }),
            _ => {
                let kind = Exact::whole(0, 0);
                let zero = Typed { value: number(0, &kind), kind, at: typed.at, text: None };
                arithmetic(&BinaryOperator::Minus, zero, typed).unwrap_or_else(|| Err(unknown(tree)))
            }
        }
    }

    pub(super) fn compared(
        &mut self,
        left: &Tree,
        right: &Tree,
        compare: fn(Expr, Expr) -> Expr,
    ) -> Result<Expr, Wrong> {
        let (values, _) = self.together(&[left, right])?;
        let [left, right] = values.try_into().map_err(|_| unknown(left))?;
        Ok(compare(left, right))
    }

    /// Values of one type that has an order.
    fn together(&mut self, trees: &[&Tree]) -> Result<(Vec<Expr>, Type), Wrong> {
        let parts = trees.iter().map(|tree| self.typed(tree)).collect::<Result<Vec<_>, _>>()?;
        let at = parts.first().map_or(Location { line: 0, column: 0 }, |part| part.at);
        let (values, kind) = unified(parts)?;
        if !kind.is_ordered() {
            let message = format!("values of type {kind} are not compared");
            return Err(
                Wrong::near(at, message).help("IS NULL asks whether there is one; fields and elements may be compared")
            );
        }
        // NULL by itself has no comparison in polars.
        match kind {
            Type::Null => {
                Ok((values.into_iter().map(|value| widened(value, &Type::Null, &Type::Bool)).collect(), Type::Bool))
            }
            kind => Ok((values, kind)),
        }
    }

    fn column(&mut self, leaf: Leaf, at: Location) -> Typed {
        let kind = leaf.kind.clone();
        let number = self.leaves.iter().position(|known| *known == leaf).unwrap_or_else(|| {
            self.leaves.push(leaf);
            self.leaves.len() - 1
        });
        Typed { value: col(number.to_string()), kind, at, text: None }
    }

    /// The number of elements of the list that `tree` names, if it names one.
    pub(super) fn length(&mut self, tree: &Tree) -> Option<Typed> {
        let names =
            matches!(tree, Tree::Identifier(_) | Tree::CompoundIdentifier(_) | Tree::CompoundFieldAccess { .. });
        let (mut leaf, field) = names.then(|| self.names.leaf(tree).ok())??;
        list_field(field.data_type())?;
        leaf.steps.push(Step::Length);
        leaf.kind = Exact::whole(0, i32::MAX.into());
        Some(self.column(leaf, tree.span().start))
    }
}

/// `values` by the first of `whens` that is true; the last value where none is.
pub(super) fn chosen(whens: Vec<Expr>, values: Vec<Typed>, at: Location) -> Made {
    let (mut values, kind) = unified(values)?;
    let otherwise = values.pop().unwrap_or_else(|| lit(NULL));
    let pairs = whens.into_iter().zip(values).rev();
    let value = pairs.fold(otherwise, |otherwise, (when, then)| ternary_expr(when, then, otherwise));
    Ok(Typed { value, kind, at, text: None })
}

pub(super) fn unknown(tree: &Tree) -> Wrong {
    let text: String = tree.to_string().chars().take(60).collect();
    Wrong::at(tree, format!("`{text}` is not among the expressions of `where`")).help("docs/datasets.md lists them")
}

/// A balanced tree of a chain, which may be long.
fn halved(mut sides: Vec<Expr>, join: fn(Expr, Expr) -> Expr) -> Expr {
    while sides.len() > 1 {
        let mut pairs = sides.into_iter();
        let mut next = Vec::new();
        while let Some(left) = pairs.next() {
            next.push(match pairs.next() {
                Some(right) => join(left, right),
                None => left,
            });
        }
        sides = next;
    }
    sides.pop().unwrap_or_else(|| lit(false))
}

fn literal(value: &ValueWithSpan) -> Made {
    let at = value.span.start;
    let made = |value: Expr, kind: Type, text: Option<String>| Ok(Typed { value, kind, at, text });
    match &value.value {
        Value::Null => made(lit(NULL), Type::Null, None),
        Value::Boolean(truth) => made(lit(*truth), Type::Bool, None),
        Value::SingleQuotedString(text) => made(lit(text.as_str()), Type::Text, Some(text.clone())),
        Value::Number(text, _) => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let digits = format!("{whole}{fraction}");
            match digits
                .parse()
                .ok()
                .and_then(|units: i128| Exact::new(u8::try_from(fraction.len()).ok()?, units, units))
            {
                Some(exact) if !text.contains(['e', 'E']) => {
                    let kind = Type::Exact(exact);
                    made(number(exact.low, &kind), kind, None)
                }
                _ => match text.parse::<f64>() {
                    Ok(found) => made(double(found), Type::Double, None),
                    Err(_) => Err(Wrong::near(at, format!("`{text}` is no number"))),
                },
            }
        }
        other => Err(Wrong::near(at, format!("`{other}` is not among the constants of `where`"))),
    }
}

/// A text that is written out as a date or a time.
fn dated(typed: Typed, kind: &Type) -> Made {
    let text = typed.text.as_deref().unwrap_or_default();
    let Some(nanos) = nanoseconds(text) else {
        return Err(typed.wrong(format!("'{text}' is no {kind}")).help("write '2024-12-31' or '2024-12-31 23:59:59'"));
    };
    let units = if *kind == Type::Date { nanos.div_euclid(DAY) } else { nanos };
    Ok(Typed { value: number(units, kind), kind: kind.clone(), text: None, ..typed })
}

/// `parts` as values of one type.
pub(super) fn unified(parts: Vec<Typed>) -> Result<(Vec<Expr>, Type), Wrong> {
    // A text that is written out is read as the date that it is compared with.
    let time = parts.iter().map(|part| &part.kind).find(|kind| matches!(kind, Type::Date | Type::Timestamp)).cloned();
    let dated = parts.into_iter().map(|part| match (&time, &part.text) {
        (Some(Type::Date), Some(text)) if text.trim().len() <= 10 => dated(part, &Type::Date),
        (Some(_), Some(_)) => dated(part, &Type::Timestamp),
        _ => Ok(part),
    });
    let parts = dated.collect::<Result<Vec<_>, _>>()?;
    let mut common = Type::Null;
    for part in &parts {
        common = common.common(&part.kind).ok_or_else(|| {
            let help = match (&common, &part.kind) {
                (Type::Text, kind) | (kind, Type::Text) if kind.is_number() => {
                    "write numbers without quotes, and a column of texts as `TRY_CAST(column AS DOUBLE)`"
                }
                _ => "CAST(value AS type) makes one of the other's type",
            };
            part.wrong(format!("{} and {common} have no type in common", part.kind)).help(help)
        })?;
    }
    let values = parts.into_iter().map(|part| widened(part.value, &part.kind, &common)).collect();
    Ok((values, common))
}

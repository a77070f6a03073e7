//! SQL to expressions of polars: names to columns, every part with its type, nulls as SQL has them.

use arrow::datatypes::{DataType, Field, Schema};
use polars_lazy::dsl::{Expr, col, lit, ternary_expr};
use polars_lazy::prelude::NULL;
use sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType as Named, Expr as Tree, Ident, Spanned, Subscript, TypedString,
    UnaryOperator, Value, ValueWithSpan,
};
use sqlparser::tokenizer::Location;

use super::column::{Leaf, Step, kind, nanoseconds};
use super::functions::{self, cast_to};
use super::syntax::Wrong;
use super::types::{DAY, Exact, Type, double, number, widened};
use crate::error::nearest;
use crate::io::Bound;
use crate::io::bounds::{Compare, Value as Constant};
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
    schema: &'a Schema,
    pub(super) leaves: Vec<Leaf>,
    parts: usize,
    depth: usize,
}

impl<'a> Translator<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self { schema, leaves: Vec::new(), parts: 0, depth: 0 }
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
                let (leaf, _) = self.leaf(tree)?;
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
            Tree::Like { any: false, negated, expr, pattern, escape_char } => {
                let like = self.like(expr, pattern, escape_char.as_ref(), false)?;
                truth(if *negated { like.not() } else { like })
            }
            Tree::ILike { any: false, negated, expr, pattern, escape_char } => {
                let like = self.like(expr, pattern, escape_char.as_ref(), true)?;
                truth(if *negated { like.not() } else { like })
            }
            Tree::Case { operand, conditions, else_result, .. } => {
                let mut whens = Vec::new();
                match operand {
                    None => {
                        for when in conditions {
                            whens.push(self.truth(&when.condition, "WHEN")?);
                        }
                    }
                    Some(operand) => {
                        let pairs: Vec<&Tree> =
                            conditions.iter().flat_map(|when| [&**operand, &when.condition]).collect();
                        let (values, _) = self.together(&pairs)?;
                        whens.extend(values.chunks_exact(2).map(|pair| pair[0].clone().eq(pair[1].clone())));
                    }
                }
                let mut values = Vec::new();
                for when in conditions {
                    values.push(self.typed(&when.result)?);
                }
                values.push(match else_result {
                    Some(otherwise) => self.typed(otherwise)?,
                    None => Typed { value: lit(NULL), kind: Type::Null, at, text: None },
                });
                chosen(whens, values, at)
            }
            Tree::Cast { kind, expr, data_type, format: None, .. } => {
                let fails = matches!(kind, CastKind::TryCast | CastKind::SafeCast);
                cast_to(self.typed(expr)?, data_type, fails)
            }
            _ => functions::called(self, tree)?.ok_or_else(|| unknown(tree)),
        }
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
                return functions::power(sides, at);
            }
            _ => {
                let (left, right) = (self.typed(left)?, self.typed(right)?);
                return functions::arithmetic(op, left, right).unwrap_or_else(|| Err(unknown(tree)));
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
                functions::arithmetic(&BinaryOperator::Minus, zero, typed).unwrap_or_else(|| Err(unknown(tree)))
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

    fn like(
        &mut self,
        tree: &Tree,
        pattern: &Tree,
        escape: Option<&ValueWithSpan>,
        folds: bool,
    ) -> Result<Expr, Wrong> {
        let (text, pattern) = (self.typed(tree)?, self.typed(pattern)?);
        functions::like(text, pattern, escape, folds)
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
        let (mut leaf, field) = names.then(|| self.leaf(tree).ok())??;
        list_field(field.data_type())?;
        leaf.steps.push(Step::Length);
        leaf.kind = Exact::whole(0, i32::MAX.into());
        Some(self.column(leaf, tree.span().start))
    }

    /// The column, field or element that `tree` names.
    fn leaf(&self, tree: &Tree) -> Result<(Leaf, Field), Wrong> {
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
        let fields: Vec<&Field> = self.schema.fields().iter().map(|field| &**field).collect();
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

/// `values` by the first of `whens` that is true; the last value where none is.
pub(super) fn chosen(whens: Vec<Expr>, values: Vec<Typed>, at: Location) -> Made {
    let (mut values, kind) = unified(values)?;
    let otherwise = values.pop().unwrap_or_else(|| lit(NULL));
    let pairs = whens.into_iter().zip(values).rev();
    let value = pairs.fold(otherwise, |otherwise, (when, then)| ternary_expr(when, then, otherwise));
    Ok(Typed { value, kind, at, text: None })
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

fn unknown(tree: &Tree) -> Wrong {
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

//! [`Syntax`] to [`Expression`]: finds the columns, decides the types, and refuses what would not mean the same to DuckDB.

use std::cmp::Ordering;

use arrow::datatypes::Schema;

use super::cast::{Target, cast};
use super::column::type_of;
use super::expression::Expression;
use super::functions::{self, Function, Takes};
use super::number;
use super::syntax::{Failing, Kind, Operator, Syntax};
use super::value::{Type, Value};
use super::{Wrong, near};

/// An expression, its type, and where it stands.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) expression: Expression,
    pub(super) kind: Type,
    at: usize,
}

/// Binds expressions to the columns of a schema.
#[derive(Debug)]
pub(super) struct Binder<'a> {
    schema: &'a Schema,
    /// The columns named so far.
    pub(super) columns: Vec<String>,
}

type Made = Result<Bound, Wrong>;

impl<'a> Binder<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self { schema, columns: Vec::new() }
    }

    pub(super) fn bind(&mut self, syntax: &Syntax) -> Made {
        let at = syntax.at;
        let made = |expression, kind| Ok(Bound { expression, kind, at });
        match &syntax.kind {
            Kind::Null => made(Expression::Value(Value::Null), Type::Null),
            Kind::Bool(value) => made(Expression::Value(Value::Bool(*value)), Type::Bool),
            Kind::Text(text) => made(Expression::Value(Value::Text(text.clone().into())), Type::Text),
            Kind::Number(text) => {
                let value = number::literal(text);
                let kind = match value {
                    Value::Int(_) => Type::Int,
                    Value::Decimal { .. } => Type::Decimal,
                    _ => Type::Double,
                };
                made(Expression::Value(value), kind)
            }
            Kind::Column(name) => self.column(at, name),
            Kind::Field(value, field) => self.field(at, value, field),
            Kind::Index(list, index) => self.index(at, list, index),
            Kind::Not(value) => made(Expression::Not(Box::new(self.truth(value, "NOT")?)), Type::Bool),
            Kind::Negate(value) => {
                let bound = self.bind(value)?;
                if bound.kind != Type::Null && bound.kind.rank().is_none() {
                    return Err(Wrong::at(bound.at, format!("arithmetic is of numbers, and this is {}", bound.kind)));
                }
                made(Expression::Negate(Box::new(bound.expression)), bound.kind)
            }
            Kind::And(parts) => made(Expression::And(self.truths(parts, "AND")?), Type::Bool),
            Kind::Or(parts) => made(Expression::Or(self.truths(parts, "OR")?), Type::Bool),
            Kind::Binary(operator, left, right) => self.binary(at, *operator, left, right),
            Kind::Distinct { left, right, is_negated } => {
                let ([left, right], _) = self.compared([left, right])?;
                made(Expression::Distinct { left, right, is_negated: *is_negated }, Type::Bool)
            }
            Kind::Is { value, test, is_negated } => {
                let value = match test {
                    super::syntax::Test::Null => self.bind(value)?.expression,
                    _ => self.truth(value, "IS TRUE and IS FALSE")?,
                };
                made(Expression::Is { value: Box::new(value), test: *test, is_negated: *is_negated }, Type::Bool)
            }
            Kind::Between { value, low, high, is_negated } => {
                let (parts, _) = self.together(&[value, low, high])?;
                let [value, low, high] = sized(parts);
                let above = Expression::Compare(Operator::GreaterOrEqual, value.clone(), low);
                let within = Expression::And(vec![above, Expression::Compare(Operator::LessOrEqual, value, high)]);
                made(negated_if(*is_negated, within), Type::Bool)
            }
            Kind::In { value, list, is_negated } => {
                let parts: Vec<&Syntax> = std::iter::once(&**value).chain(list).collect();
                let (mut parts, _) = self.together(&parts)?;
                let list = parts.split_off(1);
                let value = Box::new(parts.remove(0));
                made(negated_if(*is_negated, Expression::In { value, list }), Type::Bool)
            }
            Kind::Like { .. } => self.like(at, &syntax.kind),
            Kind::Case { operand, branches, otherwise } => {
                self.case(at, operand.as_deref(), branches, otherwise.as_deref())
            }
            Kind::Cast { value, to, failing } => self.cast(at, value, to, *failing),
            Kind::Call { name, arguments } => self.call(at, name, arguments),
        }
    }

    /// `syntax` as a condition, which `what` wants.
    pub(super) fn truth(&mut self, syntax: &Syntax, what: &str) -> Result<Expression, Wrong> {
        let bound = self.bind(syntax)?;
        match bound.kind {
            Type::Bool | Type::Null => Ok(bound.expression),
            kind => Err(Wrong::at(bound.at, format!("{what} is of true and false, and this is {kind}"))),
        }
    }

    fn truths(&mut self, parts: &[Syntax], what: &str) -> Result<Vec<Expression>, Wrong> {
        parts.iter().map(|part| self.truth(part, what)).collect()
    }

    /// As in DuckDB, case matters only where two names differ by nothing else.
    fn column(&mut self, at: usize, name: &str) -> Made {
        let fields = self.schema.fields();
        let same = fields.iter().find(|field| field.name() == name);
        let mut folded = fields.iter().filter(|field| field.name().to_lowercase() == name.to_lowercase());
        let found = same.or_else(|| folded.next().filter(|_| folded.next().is_none()));
        let Some(field) = found else {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            let help = match near(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            return Err(Wrong::at(at, format!("no column `{name}`")).help(help));
        };
        let known = self.columns.iter().position(|column| column == field.name());
        let index = known.unwrap_or_else(|| {
            self.columns.push(field.name().clone());
            self.columns.len() - 1
        });
        Ok(Bound { expression: Expression::Column(index), kind: type_of(field), at })
    }

    fn field(&mut self, at: usize, value: &Syntax, name: &str) -> Made {
        let bound = self.bind(value)?;
        let Type::Struct(fields) = bound.kind else {
            return Err(Wrong::at(at, format!("{} has no fields", bound.kind)));
        };
        let same = fields.iter().position(|(field, _)| field == name);
        let folded = || fields.iter().position(|(field, _)| field.to_lowercase() == name.to_lowercase());
        let Some(index) = same.or_else(folded) else {
            let names: Vec<&str> = fields.iter().map(|(field, _)| field.as_str()).collect();
            let help = match near(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            return Err(Wrong::at(at, format!("no field `{name}`")).help(help));
        };
        let kind = fields[index].1.clone();
        Ok(Bound { expression: Expression::Field(Box::new(bound.expression), index), kind, at })
    }

    fn index(&mut self, at: usize, list: &Syntax, index: &Syntax) -> Made {
        let (list, index) = (self.bind(list)?, self.bind(index)?);
        let Type::List(element) = list.kind else {
            return Err(Wrong::at(at, format!("{} has no elements", list.kind)));
        };
        if !matches!(index.kind, Type::Int | Type::Null) {
            return Err(Wrong::at(index.at, format!("an element is known by its number, and this is {}", index.kind)));
        }
        let expression = Expression::Index(Box::new(list.expression), Box::new(index.expression));
        Ok(Bound { expression, kind: *element, at })
    }

    fn binary(&mut self, at: usize, operator: Operator, left: &Syntax, right: &Syntax) -> Made {
        use Operator::{Concatenate, Divide, Equal, Greater, GreaterOrEqual, IntegerDivide, Less, LessOrEqual};
        let made = |expression, kind| Ok(Bound { expression, kind, at });
        match operator {
            Equal | Operator::NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual => {
                let ([left, right], _) = self.compared([left, right])?;
                // Before either side is evaluated, which may be an error.
                match [&left, &right].iter().any(|side| matches!(***side, Expression::Value(Value::Null))) {
                    true => made(Expression::Value(Value::Null), Type::Bool),
                    false => made(Expression::Compare(operator, left, right), Type::Bool),
                }
            }
            Concatenate => {
                let parts = [self.text(left)?, self.text(right)?];
                let is_null = parts.clone().map(|part| Expression::Is {
                    value: Box::new(part),
                    test: super::syntax::Test::Null,
                    is_negated: false,
                });
                let null = (Expression::Or(is_null.into()), Expression::Value(Value::Null));
                made(Expression::Branches(vec![null], Box::new(Expression::Concatenate(parts.into()))), Type::Text)
            }
            _ => {
                let (left, right) = (self.bind(left)?, self.bind(right)?);
                for side in [&left, &right] {
                    if side.kind != Type::Null && side.kind.rank().is_none() {
                        return Err(Wrong::at(side.at, format!("arithmetic is of numbers, and this is {}", side.kind)));
                    }
                }
                let common = left.kind.common(&right.kind).unwrap_or(Type::Null);
                let is_exact = matches!(common, Type::Int | Type::Decimal);
                let (operator, kind) = match operator {
                    IntegerDivide if common == Type::Int => (operator, Type::Int),
                    IntegerDivide | Divide if is_exact => (Divide, Type::Double),
                    IntegerDivide => (Divide, common),
                    Operator::Power => (operator, Type::Double),
                    _ => (operator, common),
                };
                let [left, right] = [left, right].map(|side| Box::new(as_type(side, &kind)));
                made(Expression::Arithmetic(operator, left, right), kind)
            }
        }
        .map(|mut bound: Bound| {
            bound.at = at;
            bound
        })
    }

    /// Two values of one type that has an order.
    fn compared(&mut self, sides: [&Syntax; 2]) -> Result<([Box<Expression>; 2], Type), Wrong> {
        let (parts, kind) = self.together(&sides)?;
        Ok((sized(parts), kind))
    }

    /// Values of one type that has an order.
    fn together(&mut self, parts: &[&Syntax]) -> Result<(Vec<Expression>, Type), Wrong> {
        let parts: Vec<Bound> = parts.iter().map(|part| self.bind(part)).collect::<Result<_, _>>()?;
        let (parts, kind) = unified(parts)?;
        match kind.is_ordered() {
            true => Ok((parts.into_iter().map(|part| part.expression).collect(), kind)),
            false => {
                let help = "IS NULL asks whether there is a value; fields and elements may be compared";
                Err(Wrong::at(parts[0].at, format!("values of {kind} are not compared")).help(help))
            }
        }
    }

    /// A value as text, as `||` and `concat` take it.
    fn text(&mut self, syntax: &Syntax) -> Result<Expression, Wrong> {
        let bound = self.bind(syntax)?;
        if matches!(bound.kind, Type::Text | Type::Null) {
            return Ok(bound.expression);
        }
        match matches!(bound.kind, Type::Int | Type::Bool) {
            true => Ok(cast_to(bound.expression, Target::Text)),
            false => Err(Wrong::at(bound.at, format!("{} is not joined with texts", bound.kind))),
        }
    }

    fn like(&mut self, at: usize, kind: &Kind) -> Made {
        let Kind::Like { value, pattern, escape, case, is_negated } = kind else {
            return Err(Wrong::at(at, "no LIKE"));
        };
        let mut side = |syntax: &Syntax| {
            let bound = self.bind(syntax)?;
            match bound.kind {
                Type::Text | Type::Null => Ok(Box::new(bound.expression)),
                kind => Err(Wrong::at(bound.at, format!("LIKE is of texts, and this is {kind}"))),
            }
        };
        let (value, pattern) = (side(value)?, side(pattern)?);
        let escape = match escape.as_deref().map(|escape| (&escape.kind, escape.at)) {
            None => None,
            Some((Kind::Text(text), at)) => {
                let mut chars = text.chars();
                let escape = chars.next();
                if chars.next().is_some() {
                    return Err(Wrong::at(at, "ESCAPE takes one character"));
                }
                escape
            }
            Some((_, at)) => return Err(Wrong::at(at, "ESCAPE takes one character in quotes")),
        };
        let like = Expression::Like { value, pattern, escape, case: *case };
        Ok(Bound { expression: negated_if(*is_negated, like), kind: Type::Bool, at })
    }

    fn case(
        &mut self,
        at: usize,
        operand: Option<&Syntax>,
        branches: &[(Syntax, Syntax)],
        otherwise: Option<&Syntax>,
    ) -> Made {
        let mut conditions = Vec::new();
        match operand {
            None => {
                for (when, _) in branches {
                    conditions.push(self.truth(when, "WHEN")?);
                }
            }
            Some(operand) => {
                let parts: Vec<&Syntax> =
                    std::iter::once(operand).chain(branches.iter().map(|(when, _)| when)).collect();
                let (mut parts, _) = self.together(&parts)?;
                let rest = parts.split_off(1);
                let equal = |when| Expression::Compare(Operator::Equal, Box::new(parts[0].clone()), Box::new(when));
                conditions = rest.into_iter().map(equal).collect();
            }
        }
        let mut values: Vec<Bound> = branches.iter().map(|(_, then)| self.bind(then)).collect::<Result<_, _>>()?;
        values.push(match otherwise {
            Some(otherwise) => self.bind(otherwise)?,
            None => Bound { expression: Expression::Value(Value::Null), kind: Type::Null, at },
        });
        let (values, kind) = unified(values)?;
        let mut values: Vec<Expression> = values.into_iter().map(|value| value.expression).collect();
        let otherwise = Box::new(values.pop().unwrap_or(Expression::Value(Value::Null)));
        let expression = Expression::Branches(conditions.into_iter().zip(values).collect(), otherwise);
        Ok(Bound { expression, kind, at })
    }

    fn cast(&mut self, at: usize, value: &Syntax, to: &str, failing: Failing) -> Made {
        let bound = self.bind(value)?;
        let target = Target::named(to).ok_or_else(|| {
            let help = "TINYINT to HUGEINT, UTINYINT to UBIGINT, FLOAT, DOUBLE, TEXT, BOOLEAN, DATE, TIMESTAMP";
            Wrong::at(at, format!("no type `{to}`")).help(format!("there are {help}"))
        })?;
        if !target.takes(&bound.kind) {
            return Err(Wrong::at(bound.at, format!("{} is not cast to {}", bound.kind, target.kind())));
        }
        let expression = Expression::Cast { value: Box::new(bound.expression), to: target, failing };
        Ok(Bound { expression, kind: target.kind(), at })
    }

    fn call(&mut self, at: usize, name: &str, arguments: &[Syntax]) -> Made {
        if let Some(special) = self.special(at, name, arguments)? {
            return Ok(special);
        }
        let arguments: Vec<Bound> = arguments.iter().map(|part| self.bind(part)).collect::<Result<_, _>>()?;
        let fits = |function: &&'static Function| {
            let pairs = || function.takes.iter().zip(&arguments);
            function.takes.len() == arguments.len() && pairs().all(|(takes, bound)| takes.accepts(&bound.kind))
        };
        let Some(function) = functions::named(name).find(fits) else {
            return Err(unknown_call(at, name, &arguments));
        };
        let kind = function.result(arguments.first().map_or(&Type::Null, |first| &first.kind));
        let arguments = arguments.into_iter().zip(function.takes).map(|(bound, takes)| match takes {
            Takes::Double => as_type(bound, &Type::Double),
            _ => bound.expression,
        });
        Ok(Bound { expression: Expression::Call(function.does, arguments.collect()), kind, at })
    }

    /// Functions whose arguments have a type in common, or that see nulls.
    fn special(&mut self, at: usize, name: &str, arguments: &[Syntax]) -> Result<Option<Bound>, Wrong> {
        let parts = || arguments.iter().collect::<Vec<_>>();
        let (expression, kind) = match (name, arguments) {
            ("coalesce", [_, ..]) | ("ifnull", [_, _]) => {
                let bound = arguments.iter().map(|part| self.bind(part)).collect::<Result<_, _>>()?;
                let (values, kind) = unified(bound)?;
                (Expression::First(values.into_iter().map(|value| value.expression).collect()), kind)
            }
            ("greatest" | "least", [_, ..]) => {
                let wanted = if name == "least" { Ordering::Less } else { Ordering::Greater };
                let (values, kind) = self.together(&parts())?;
                (Expression::Extreme(wanted, values), kind)
            }
            ("nullif", [value, other]) => {
                let own = self.bind(value)?;
                let ([left, right], _) = self.compared([value, other])?;
                let equal = Expression::Compare(Operator::Equal, left, right);
                let null = Expression::Value(Value::Null);
                (Expression::Branches(vec![(equal, null)], Box::new(own.expression)), own.kind)
            }
            ("if", [when, then, otherwise]) => {
                let when = self.truth(when, "the first argument of `if`")?;
                let (values, kind) = unified(vec![self.bind(then)?, self.bind(otherwise)?])?;
                let [then, otherwise] = sized(values.into_iter().map(|value| value.expression).collect());
                (Expression::Branches(vec![(when, *then)], otherwise), kind)
            }
            ("concat", [_, ..]) => {
                let texts = arguments.iter().map(|part| self.text(part)).collect::<Result<_, _>>()?;
                (Expression::Concatenate(texts), Type::Text)
            }
            ("mod", [left, right]) => return self.binary(at, Operator::Remainder, left, right).map(Some),
            ("list_contains" | "array_contains" | "list_has" | "array_has" | "contains", [list, element]) => {
                let list = self.bind(list)?;
                let Type::List(inner) = list.kind else { return Ok(None) };
                let element = self.bind(element)?;
                let probe = Bound { expression: Expression::Value(Value::Null), kind: *inner, at: list.at };
                let (mut both, kind) = unified(vec![probe, element])?;
                if !kind.is_ordered() {
                    return Err(Wrong::at(at, format!("values of {kind} are not compared")));
                }
                let element = Box::new(both.remove(1).expression);
                (Expression::Has { list: Box::new(list.expression), element, kind }, Type::Bool)
            }
            _ => return Ok(None),
        };
        Ok(Some(Bound { expression, kind, at }))
    }
}

/// Functions that [`Binder::special`] knows.
const SPECIAL: [&str; 8] = ["coalesce", "ifnull", "greatest", "least", "nullif", "if", "concat", "mod"];

fn unknown_call(at: usize, name: &str, arguments: &[Bound]) -> Wrong {
    let forms: Vec<String> = functions::named(name)
        .map(|function| function.takes.iter().map(|takes| takes.shown()).collect::<Vec<_>>().join(", "))
        .collect();
    if forms.is_empty() && !SPECIAL.contains(&name) {
        let names: Vec<&str> = functions::names().chain(SPECIAL).chain(["list_contains"]).collect();
        let help =
            near(name, &names).map_or("docs/where.md lists them".to_owned(), |near| format!("did you mean `{near}`?"));
        return Wrong::at(at, format!("no function `{name}`")).help(help);
    }
    let given: Vec<String> = arguments.iter().map(|bound| bound.kind.to_string()).collect();
    let wrong = Wrong::at(at, format!("`{name}` does not take ({})", given.join(", ")));
    if forms.is_empty() { wrong } else { wrong.help(format!("it takes ({})", forms.join(") or ("))) }
}

/// `parts` as values of one type.
fn unified(parts: Vec<Bound>) -> Result<(Vec<Bound>, Type), Wrong> {
    // A text that is written out is read as the date that it is compared with.
    let is_time = |part: &Bound| matches!(part.kind, Type::Date | Type::Timestamp);
    let time = parts.iter().find(|part| is_time(part)).map(|part| part.kind.clone());
    let mut common = Type::Null;
    let mut made = Vec::new();
    for mut part in parts {
        if let (Some(time), Expression::Value(Value::Text(text))) = (&time, &part.expression) {
            let target = if *time == Type::Date && text.trim().len() <= 10 { Target::Date } else { Target::Timestamp };
            let value = cast(Value::Text(text.clone()), target).map_err(|error| Wrong::at(part.at, error))?;
            (part.expression, part.kind) = (Expression::Value(value), target.kind());
        }
        common = common.common(&part.kind).ok_or_else(|| {
            let help = match (&common, &part.kind) {
                (Type::Text, kind) | (kind, Type::Text) if kind.rank().is_some() => {
                    "write numbers without quotes, and a column of texts as `CAST(column AS DOUBLE)`"
                }
                _ => "CAST(value AS type) makes one of the other's type",
            };
            Wrong::at(part.at, format!("{} and {common} have no type in common", part.kind)).help(help)
        })?;
        made.push(part);
    }
    let made =
        made.into_iter().map(|part| Bound { at: part.at, kind: common.clone(), expression: as_type(part, &common) });
    Ok((made.collect(), common))
}

/// A value of the wider type `kind`.
fn as_type(bound: Bound, kind: &Type) -> Expression {
    let is_wide = matches!(kind, Type::Single | Type::Double) && bound.kind != *kind;
    match bound.kind {
        _ if is_wide => Expression::Widen(Box::new(bound.expression), kind.clone()),
        Type::Date if *kind == Type::Timestamp => cast_to(bound.expression, Target::Timestamp),
        _ => bound.expression,
    }
}

fn cast_to(value: Expression, to: Target) -> Expression {
    Expression::Cast { value: Box::new(value), to, failing: Failing::Error }
}

fn negated_if(is_negated: bool, expression: Expression) -> Expression {
    if is_negated { Expression::Not(Box::new(expression)) } else { expression }
}

/// As many expressions as were asked for.
fn sized<const N: usize>(parts: Vec<Expression>) -> [Box<Expression>; N] {
    let mut parts = parts.into_iter();
    std::array::from_fn(|_| Box::new(parts.next().unwrap_or(Expression::Value(Value::Null))))
}

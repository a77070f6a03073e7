//! The functions that an expression may call, by DuckDB's names. A function of a null is null.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::number::{self, Rounding};
use super::text;
use super::value::{List, Type, Value};

/// Longest text that a function may make, in bytes.
const LONGEST: usize = 16 << 20;

/// A function for arguments of certain types.
#[derive(Debug)]
pub(super) struct Function {
    names: &'static [&'static str],
    pub(super) takes: &'static [Takes],
    pub(super) returns: Returns,
    pub(super) does: Do,
}

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Text,
    Int,
    Number,
    /// A number, which is made a double.
    Double,
    List,
    /// A list of numbers.
    Numbers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returns {
    Bool,
    Int,
    Double,
    Text,
    Texts,
    /// The type of the first argument.
    Same,
    /// As [`Self::Same`]; of a whole number a double.
    Float,
    /// The type of the first argument's elements.
    Element,
    /// As [`Self::Element`], with room for the sum of many.
    Sum,
}

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    Characters,
    Bytes,
    Bits,
    Elements,
    Lower,
    Upper,
    Trim,
    TrimLeft,
    TrimRight,
    Left,
    Right,
    Substring,
    Replace,
    Repeat,
    StartsWith,
    EndsWith,
    Contains,
    Find,
    Code,
    Split,
    Absolute,
    Sign,
    Round(Rounding),
    Root,
    Exp,
    Ln,
    Log10,
    Log2,
    Power,
    IsNan,
    IsInfinite,
    IsFinite,
    Smallest,
    Largest,
    Sum,
}

const fn function(names: &'static [&'static str], takes: &'static [Takes], returns: Returns, does: Do) -> Function {
    Function { names, takes, returns, does }
}

static FUNCTIONS: [Function; 43] = {
    use Takes::{Double, Int, List, Number, Numbers, Text};
    [
        function(&["length", "len", "char_length", "character_length"], &[Text], Returns::Int, Do::Characters),
        function(&["length", "len", "array_length"], &[List], Returns::Int, Do::Elements),
        function(&["strlen"], &[Text], Returns::Int, Do::Bytes),
        function(&["bit_length"], &[Text], Returns::Int, Do::Bits),
        function(&["lower", "lcase"], &[Text], Returns::Text, Do::Lower),
        function(&["upper", "ucase"], &[Text], Returns::Text, Do::Upper),
        function(&["trim"], &[Text], Returns::Text, Do::Trim),
        function(&["trim"], &[Text, Text], Returns::Text, Do::Trim),
        function(&["ltrim"], &[Text], Returns::Text, Do::TrimLeft),
        function(&["ltrim"], &[Text, Text], Returns::Text, Do::TrimLeft),
        function(&["rtrim"], &[Text], Returns::Text, Do::TrimRight),
        function(&["rtrim"], &[Text, Text], Returns::Text, Do::TrimRight),
        function(&["left"], &[Text, Int], Returns::Text, Do::Left),
        function(&["right"], &[Text, Int], Returns::Text, Do::Right),
        function(&["substring", "substr"], &[Text, Int], Returns::Text, Do::Substring),
        function(&["substring", "substr"], &[Text, Int, Int], Returns::Text, Do::Substring),
        function(&["replace"], &[Text, Text, Text], Returns::Text, Do::Replace),
        function(&["repeat"], &[Text, Int], Returns::Text, Do::Repeat),
        function(&["starts_with", "prefix"], &[Text, Text], Returns::Bool, Do::StartsWith),
        function(&["ends_with", "suffix"], &[Text, Text], Returns::Bool, Do::EndsWith),
        function(&["contains"], &[Text, Text], Returns::Bool, Do::Contains),
        function(&["strpos", "instr"], &[Text, Text], Returns::Int, Do::Find),
        function(&["ascii", "ord", "unicode"], &[Text], Returns::Int, Do::Code),
        function(&["string_split", "split", "str_split"], &[Text, Text], Returns::Texts, Do::Split),
        function(&["abs"], &[Number], Returns::Same, Do::Absolute),
        function(&["sign"], &[Number], Returns::Int, Do::Sign),
        function(&["round"], &[Number], Returns::Same, Do::Round(Rounding::Half)),
        function(&["round"], &[Number, Int], Returns::Same, Do::Round(Rounding::Half)),
        function(&["floor"], &[Number], Returns::Float, Do::Round(Rounding::Down)),
        function(&["ceil", "ceiling"], &[Number], Returns::Float, Do::Round(Rounding::Up)),
        function(&["trunc"], &[Number], Returns::Same, Do::Round(Rounding::TowardsZero)),
        function(&["sqrt"], &[Double], Returns::Double, Do::Root),
        function(&["exp"], &[Double], Returns::Double, Do::Exp),
        function(&["ln"], &[Double], Returns::Double, Do::Ln),
        function(&["log", "log10"], &[Double], Returns::Double, Do::Log10),
        function(&["log2"], &[Double], Returns::Double, Do::Log2),
        function(&["pow", "power"], &[Double, Double], Returns::Double, Do::Power),
        function(&["isnan"], &[Double], Returns::Bool, Do::IsNan),
        function(&["isinf"], &[Double], Returns::Bool, Do::IsInfinite),
        function(&["isfinite"], &[Double], Returns::Bool, Do::IsFinite),
        function(&["list_min", "array_min"], &[List], Returns::Element, Do::Smallest),
        function(&["list_max", "array_max"], &[List], Returns::Element, Do::Largest),
        function(&["list_sum", "array_sum"], &[Numbers], Returns::Sum, Do::Sum),
    ]
};

/// The functions called `name`.
pub(super) fn named(name: &str) -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter().filter(move |function| function.names.contains(&name))
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().flat_map(|function| function.names).copied()
}

impl Function {
    /// The type of its result.
    pub(super) fn result(&self, first: &Type) -> Type {
        let element = || if let Type::List(element) = first { Type::clone(element) } else { Type::Null };
        match self.returns {
            Returns::Bool => Type::Bool,
            Returns::Int => Type::Int,
            Returns::Double => Type::Double,
            Returns::Text => Type::Text,
            Returns::Texts => Type::List(Box::new(Type::Text)),
            Returns::Float if *first == Type::Int => Type::Double,
            Returns::Same | Returns::Float => first.clone(),
            Returns::Sum if element() == Type::Single => Type::Double,
            Returns::Element | Returns::Sum => element(),
        }
    }
}

impl Takes {
    pub(super) fn accepts(self, kind: &Type) -> bool {
        match (self, kind) {
            (_, Type::Null) => true,
            (Self::Text, kind) => *kind == Type::Text,
            (Self::Int, kind) => *kind == Type::Int,
            (Self::Number | Self::Double, kind) => kind.rank().is_some(),
            (Self::List, Type::List(element)) => element.is_ordered(),
            (Self::Numbers, Type::List(element)) => element.rank().is_some(),
            _ => false,
        }
    }

    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Int => "INTEGER",
            Self::Number | Self::Double => "a number",
            Self::List => "LIST",
            Self::Numbers => "LIST of numbers",
        }
    }
}

/// What `does` makes of `arguments`, which are of the types that it takes, and not null.
pub(super) fn call<'a>(does: Do, arguments: &[Value<'a>]) -> Result<Value<'a>, String> {
    match arguments {
        [Value::Text(text)] => Ok(of_text(does, text)),
        [Value::Text(text), Value::Text(other)] => Ok(of_texts(does, text, other)),
        [Value::Text(text), Value::Int(number)] => of_text_and_number(does, text, *number),
        [Value::Text(text), Value::Int(start), Value::Int(length)] => {
            Ok(part(text, |text| text::substring(text, *start, Some(*length))))
        }
        [Value::Text(text), Value::Text(from), Value::Text(to)] => {
            if from.is_empty() {
                return Ok(Value::Text(text.clone()));
            }
            let more = text.matches(&**from).count().saturating_mul(to.len());
            fits(text.len().saturating_add(more))?;
            Ok(Value::Text(text.replace(&**from, to).into()))
        }
        [Value::List(list)] => of_list(does, list),
        [number, Value::Int(places)] if matches!(does, Do::Round(_)) => Ok(number::rounded_to(number.clone(), *places)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a.powf(*b))),
        [number] => of_number(does, number.clone()),
        _ => Err("arguments of another type".to_owned()),
    }
}

fn of_text<'a>(does: Do, text: &Cow<'a, str>) -> Value<'a> {
    let is_space = |c: char| c == ' ';
    match does {
        Do::Characters => Value::Int(text.chars().count() as i128),
        Do::Bytes => Value::Int(text.len() as i128),
        Do::Bits => Value::Int(text.len() as i128 * 8),
        Do::Lower => Value::Text(text::lower(text).into_owned().into()),
        Do::Upper => Value::Text(text::upper(text).into_owned().into()),
        Do::Trim => part(text, |text| text.trim_matches(is_space)),
        Do::TrimLeft => part(text, |text| text.trim_start_matches(is_space)),
        Do::TrimRight => part(text, |text| text.trim_end_matches(is_space)),
        _ => Value::Int(text.chars().next().map_or(0, |c| u32::from(c).into())),
    }
}

fn of_texts<'a>(does: Do, text: &Cow<'a, str>, other: &str) -> Value<'a> {
    let is_any = |c: char| other.contains(c);
    match does {
        Do::Trim => part(text, |text| text.trim_matches(is_any)),
        Do::TrimLeft => part(text, |text| text.trim_start_matches(is_any)),
        Do::TrimRight => part(text, |text| text.trim_end_matches(is_any)),
        Do::StartsWith => Value::Bool(text.starts_with(other)),
        Do::EndsWith => Value::Bool(text.ends_with(other)),
        Do::Contains => Value::Bool(text.contains(other)),
        Do::Find => Value::Int(text.find(other).map_or(0, |at| text[..at].chars().count() as i128 + 1)),
        _ => {
            let piece = |piece: &str| Value::Text(piece.to_owned().into());
            Value::List(List::Values(match other {
                "" => text.chars().map(|c| piece(c.encode_utf8(&mut [0; 4]))).collect(),
                other => text.split(other).map(piece).collect(),
            }))
        }
    }
}

fn of_text_and_number<'a>(does: Do, text: &Cow<'a, str>, number: i128) -> Result<Value<'a>, String> {
    Ok(match does {
        Do::Left => part(text, |text| text::left(text, number)),
        Do::Right => part(text, |text| text::right(text, number)),
        Do::Substring => part(text, |text| text::substring(text, number, None)),
        _ => {
            let times = usize::try_from(number.max(0)).unwrap_or(usize::MAX);
            fits(text.len().saturating_mul(times))?;
            Value::Text(text.repeat(if text.is_empty() { 0 } else { times }).into())
        }
    })
}

fn of_number(does: Do, number: Value<'_>) -> Result<Value<'_>, String> {
    let double = number::double(&number).unwrap_or(f64::NAN);
    Ok(match does {
        Do::Absolute if double < 0.0 => number::negated(number)?,
        Do::Absolute => match number {
            Value::Single(number) => Value::Single(number.abs()),
            Value::Double(number) => Value::Double(number.abs()),
            other => other,
        },
        Do::Sign => Value::Int(i128::from(double > 0.0) - i128::from(double < 0.0)),
        Do::Round(rounding) => number::rounded(rounding, number),
        Do::Root => Value::Double(double.sqrt()),
        Do::Exp => Value::Double(double.exp()),
        Do::Ln => Value::Double(double.ln()),
        Do::Log10 => Value::Double(double.log10()),
        Do::Log2 => Value::Double(double.log2()),
        Do::IsNan => Value::Bool(double.is_nan()),
        Do::IsInfinite => Value::Bool(double.is_infinite()),
        _ => Value::Bool(double.is_finite()),
    })
}

fn of_list<'a>(does: Do, list: &List<'a>) -> Result<Value<'a>, String> {
    if does == Do::Elements {
        return Ok(Value::Int(list.len() as i128));
    }
    let mut found = Value::Null;
    for value in list.values().filter(|value| !value.is_null()) {
        let value = if does == Do::Sum && matches!(value, Value::Single(_)) {
            number::widened(value, &Type::Double)
        } else {
            value
        };
        found = match (does, found) {
            (_, Value::Null) => value,
            (Do::Sum, found) => number::arithmetic(super::syntax::Operator::Add, &found, &value)?,
            (does, found) => {
                let wanted = if does == Do::Smallest { Ordering::Less } else { Ordering::Greater };
                if value.order(&found)? == Some(wanted) { value } else { found }
            }
        };
    }
    Ok(found)
}

/// A part of `text`, which is not copied unless it was made here.
fn part<'a>(text: &Cow<'a, str>, cut: impl for<'b> Fn(&'b str) -> &'b str) -> Value<'a> {
    Value::Text(match text {
        Cow::Borrowed(text) => Cow::Borrowed(cut(text)),
        Cow::Owned(text) => Cow::Owned(cut(text).to_owned()),
    })
}

/// Refuses a text of `bytes`.
pub(super) fn fits(bytes: usize) -> Result<(), String> {
    match bytes > LONGEST {
        true => Err(format!("a text of {bytes} bytes; the longest is {LONGEST}")),
        false => Ok(()),
    }
}

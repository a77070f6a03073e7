//! One type for a column that several files hold under different ones, and its values under that type.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

use super::extension;

/// Two fields that have no type in common.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit {
    /// The names that lead there; elements of lists have none.
    pub(super) path: Vec<String>,
    known: String,
    found: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column `{}` is {}, not {}", self.path.join("."), self.found, self.known)
    }
}

/// The field that holds values of `a` and of `b`, under the name of `a`.
///
/// Numbers widen, the encodings of text and of lists become the plain one, and a struct has the fields of both, by their
/// names. Texts and lists of structs, as the contents of messages are, meet in JSON.
pub(super) fn unify(a: &Field, b: &Field) -> Result<Field, Misfit> {
    use DataType::{Int64, Null, Struct, UInt64, Utf8};
    let common = |kind: DataType| {
        Ok(Field::new(a.name(), kind, a.is_nullable() || b.is_nullable()).with_metadata(a.metadata().clone()))
    };
    let misfit = || Misfit { path: vec![a.name().clone()], known: shown(a), found: shown(b) };
    let (a_name, b_name) = (extension::name(a), extension::name(b));
    if a_name != b_name && *a.data_type() != Null && *b.data_type() != Null {
        return match [a_name, b_name].iter().flatten().all(|name| *name == extension::JSON) {
            true => Ok(extension::json(common(Utf8)?)),
            false => Err(misfit()),
        };
    }
    match (a.data_type(), b.data_type()) {
        (Null, other) => Ok(b.clone().with_name(a.name()).with_nullable(true).with_data_type(other.clone())),
        (_, Null) => Ok(a.clone().with_nullable(true)),
        (Struct(own), Struct(others)) => {
            let fields = unify_fields(own, others).map_err(|mut misfit| {
                misfit.path.insert(0, a.name().clone());
                misfit
            })?;
            common(Struct(fields))
        }
        (own, other) if own == other && !own.is_nested() => common(own.clone()),
        (own, other) if own.is_unsigned_integer() && other.is_unsigned_integer() => common(UInt64),
        (own, other) if own.is_integer() && other.is_integer() => common(Int64),
        (own, other) if is_exact(own) && is_exact(other) => {
            common(DataType::Decimal128(38, scale(own).max(scale(other))))
        }
        (own, other) if own.is_numeric() && other.is_numeric() => common(DataType::Float64),
        (own, other) if is_text(own) && is_text(other) => common(Utf8),
        (own, other) => match (list_field(own), list_field(other)) {
            (Some(own), Some(other)) => {
                let mut element = unify(own, other).map_err(|mut misfit| {
                    misfit.path[0].clone_from(a.name());
                    misfit
                })?;
                element = element.with_name("element").with_nullable(true);
                common(DataType::List(Arc::new(element)))
            }
            (None, Some(element)) if is_text(own) && is_parts(element) => Ok(extension::json(common(Utf8)?)),
            (Some(element), None) if is_text(other) && is_parts(element) => Ok(extension::json(common(Utf8)?)),
            _ if own == other => common(own.clone()),
            _ => Err(misfit()),
        },
    }
}

/// The fields of both, by name; those that one of them lacks are nullable.
pub(super) fn unify_fields(a: &Fields, b: &Fields) -> Result<Fields, Misfit> {
    let nullable = |field: &Arc<Field>| Ok(Arc::new(Field::clone(field).with_nullable(true)));
    let both = a.iter().map(|field| match b.find(field.name()) {
        None => nullable(field),
        Some((_, other)) => unify(field, other).map(Arc::new),
    });
    let rest = b.iter().filter(|field| a.find(field.name()).is_none()).map(nullable);
    both.chain(rest).collect()
}

fn shown(field: &Field) -> String {
    match extension::name(field) {
        Some(name) => format!("of the extension type {name}"),
        None => field.data_type().to_string(),
    }
}

/// Whether its values are whole numbers or decimals that 38 digits hold.
fn is_exact(kind: &DataType) -> bool {
    kind.is_integer() || matches!(kind, DataType::Decimal128(_, scale) if *scale >= 0)
}

fn scale(kind: &DataType) -> i8 {
    if let DataType::Decimal128(_, scale) = kind { *scale } else { 0 }
}

fn is_parts(element: &Field) -> bool {
    matches!(element.data_type(), DataType::Struct(_) | DataType::Null)
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// What a list of any kind holds; none of other types.
pub fn list_element(list: &DataType) -> Option<&DataType> {
    list_field(list).map(|field| field.data_type())
}

/// The field of the elements of a list of any kind; none of other types.
pub fn list_field(list: &DataType) -> Option<&Field> {
    match list {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(element: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", element, true)))
    }

    fn record(fields: &[(&str, DataType)]) -> DataType {
        let fields: Vec<Field> = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        DataType::Struct(fields.into())
    }

    fn common(a: &DataType, b: &DataType) -> Result<Field, String> {
        unify(&Field::new("x", a.clone(), false), &Field::new("y", b.clone(), false))
            .map_err(|misfit| misfit.to_string())
    }

    #[test]
    fn what_both_can_be_read_as() {
        use DataType::{
            Boolean, Decimal128, Float32, Float64, Int32, Int64, LargeUtf8, Null, UInt32, UInt64, Utf8, Utf8View,
        };
        let kind = |a: &DataType, b: &DataType| common(a, b).map(|field| field.data_type().clone()).unwrap();
        assert_eq!(kind(&Int32, &Int64), Int64);
        assert_eq!(kind(&UInt32, &UInt64), UInt64);
        assert_eq!(kind(&UInt64, &Int64), Int64);
        assert_eq!(kind(&Int64, &Float32), Float64);
        assert_eq!(kind(&Decimal128(9, 2), &Int64), Decimal128(38, 2));
        assert_eq!(kind(&Utf8View, &LargeUtf8), Utf8);
        assert_eq!(kind(&Null, &Boolean), Boolean);
        assert_eq!(kind(&list(Null), &list(Utf8)), list(Utf8));
        let one = list(record(&[("role", Utf8), ("n", Null)]));
        let other = list(record(&[("name", Utf8), ("role", Utf8View)]));
        assert_eq!(kind(&one, &other), list(record(&[("role", Utf8), ("n", Null), ("name", Utf8)])));
        // The same types under other names are other fields.
        let (one, other) = (record(&[("a", Int64), ("b", Int64)]), record(&[("b", Int64), ("c", Int64)]));
        assert_eq!(kind(&one, &other), record(&[("a", Int64), ("b", Int64), ("c", Int64)]));
        let content = common(&Utf8, &list(record(&[("text", Utf8)]))).unwrap();
        assert_eq!((extension::name(&content), content.data_type()), (Some(extension::JSON), &Utf8));
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        use DataType::{Int64, Utf8};
        assert_eq!(common(&Utf8, &Int64).unwrap_err(), "column `x` is Int64, not Utf8");
        assert_eq!(common(&Utf8, &list(Utf8)).unwrap_err(), "column `x` is List(Utf8, field: 'element'), not Utf8");
        let inner = |kind| record(&[("a", list(record(&[("b", kind)])))]);
        assert_eq!(common(&inner(Int64), &inner(Utf8)).unwrap_err(), "column `x.a.b` is Utf8, not Int64");
        let odd = extension::named(Field::new("x", Utf8, true), "x.y");
        let misfit = unify(&odd, &Field::new("x", Utf8, true)).unwrap_err();
        assert_eq!(misfit.to_string(), "column `x` is Utf8, not of the extension type x.y");
    }
}

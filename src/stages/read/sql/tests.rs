//! What expressions mean, what is refused, and columns of every type.

use super::*;

use std::sync::Arc;

use crate::io::bounds::{self, Compare};
use arrow::array::ArrayRef;
use arrow::array::{
    BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    UInt32Array, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, IntervalUnit, TimeUnit};

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// Three rows, the last of them null wherever it may be.
fn rows() -> RecordBatch {
    let tags =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None, Some(3)]), Some(vec![]), None]);
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, None]));
    let who = StructArray::from(vec![(Arc::new(Field::new("Age", DataType::Int64, true)), inner)]);
    batch(vec![
        ("kind", Arc::new(StringArray::from(vec![Some("sum"), Some("list"), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(-7), Some(2), None]))),
        ("u", Arc::new(UInt32Array::from(vec![Some(1), Some(5), None]))),
        ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None]))),
        ("x", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None]))),
        ("f", Arc::new(Float32Array::from(vec![Some(0.1), Some(0.5), None]))),
        (
            "d",
            Arc::new(Decimal128Array::from(vec![Some(150), Some(-25), None]).with_precision_and_scale(9, 2).unwrap()),
        ),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        (
            "day",
            cast(&StringArray::from(vec![Some("2024-01-02"), Some("1969-12-31"), None]), &DataType::Date32).unwrap(),
        ),
        ("tags", Arc::new(tags)),
        ("who", Arc::new(who)),
    ])
}

/// The rows, by T, F and N, for which `text` is true, false and null.
fn outcome(text: &str) -> String {
    let rows = rows();
    let is = |test: &str| {
        let filter = Filter::new(&format!("({text}) IS {test}"), &rows.schema());
        let filter = filter.unwrap_or_else(|problem| panic!("{text}: {problem:?}"));
        filter.keep(&rows).unwrap_or_else(|error| panic!("{error}"))
    };
    let (is_true, is_false) = (is("TRUE"), is("FALSE"));
    let letter = |row| match (is_true.value(row), is_false.value(row)) {
        (true, _) => 'T',
        (_, true) => 'F',
        _ => 'N',
    };
    (0..3).map(letter).collect()
}

/// As DuckDB 2.0 answers, but for differences of unsigned columns and remainders of a division by zero, which are errors there.
#[test]
fn expressions_have_the_meaning_of_sql() {
    for (text, expected) in [
        ("kind = 'list' AND n > 1", "FTN"),
        ("u - 5 < 0 AND -big < 0", "TFN"),
        ("u - 3 > 0", "FTN"),
        ("length(kind) - 4 < 0 and - length(kind) < -3", "FFN"),
        ("big > n", "TFN"),
        ("big = 18446744073709551615", "TFN"),
        ("abs(n) < 3", "FTN"),
        ("n // 2 = -3", "TFN"),
        ("n % 3 = -1", "TFN"),
        ("n / 2 = 1", "FTN"),
        ("n * 0.1 = -0.7", "TFN"),
        ("f = 0.1", "TFN"),
        ("x > 1e300", "FTN"),
        ("x = x", "TTN"),
        ("d = 1.5 OR d * d = 0.0625", "TTN"),
        ("flag IS NOT TRUE", "FTT"),
        ("flag IS NOT FALSE", "TFT"),
        ("flag IS UNKNOWN", "FFT"),
        ("NOT flag OR NULL", "NTN"),
        ("n NOT IN (2, NULL)", "NFN"),
        ("n IN (2, NULL, -7)", "TTN"),
        ("n BETWEEN 5 AND NULL", "FFN"),
        ("n IS DISTINCT FROM 2", "TFT"),
        ("kind LIKE 's_m' OR kind ILIKE 'L%'", "TTN"),
        ("kind || u = 'sum1'", "TFN"),
        ("concat(kind, NULL, u) = 'sum1'", "TFF"),
        ("CASE WHEN n > 0 THEN 'a' WHEN n < 0 THEN 'b' END = 'b'", "TFN"),
        ("CASE kind WHEN 'sum' THEN 1 ELSE 0 END = 1", "TFF"),
        ("coalesce(n, 0) = 0", "FFT"),
        ("greatest(n, u, 3) = 3", "TFT"),
        ("nullif(kind, 'sum') IS NULL", "TFT"),
        ("if(flag, n, u) = -7", "TFN"),
        ("TRY_CAST(x AS BIGINT) = 2", "TNN"),
        ("1 % (n - 2) = 1", "TNN"),
        ("TRY_CAST(kind AS INT) IS NULL", "TTT"),
        ("\"KIND\"::TEXT = 'sum'", "TFN"),
        ("day >= '2024-01-01'", "TFN"),
        ("day < TIMESTAMP '1970-01-01 00:00:01'", "FTN"),
        ("len(tags) - 1 = 2", "TFN"),
        ("tags[-1] = 3 AND tags[2] IS NULL AND tags[9] IS NULL", "TNN"),
        ("list_contains(tags, 3)", "TFN"),
        ("who.age = 7 AND who['Age'] > 6.5", "TNN"),
        ("who IS NULL", "FFF"),
        ("tags IS NULL", "FFT"),
        ("(-2) ^ 2 = 4 AND NOT 1 = 2 AND 1 + 2 || 'a' = '3a'", "TTT"),
    ] {
        assert_eq!(outcome(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_place() {
    let rows = rows();
    for (text, expected) in [
        ("kidn = 'a'", "no column `kidn`, at character 1 of the expression; did you mean `kind`?"),
        ("n > 1 AND whoever.age > 2", "no column `whoever`, at character 11 of the expression; there are kind, n, u, "),
        ("who.agee = 1", "no field `agee`, at character 5 of the expression; did you mean `Age`?"),
        ("n > 1\n AND kidn = 'a'", "no column `kidn`, at character 12 of the expression; did you mean `kind`?"),
        ("n", "`where` takes true and false, and this is INTEGER, at character 1"),
        ("n AND flag", "AND takes true and false, and this is INTEGER, at character 1"),
        (
            "kind > 5",
            "INTEGER and TEXT have no type in common, at character 8 of the expression; write numbers without",
        ),
        ("n > '5'", "TEXT and INTEGER have no type in common, at character 5"),
        ("kind + 1 > 2", "arithmetic takes numbers, and this is TEXT, at character 1"),
        ("tags = tags", "values of type LIST of INTEGER are not compared, at character 1 of the expression; IS NULL"),
        ("lenght(kind) > 1", "no function `lenght`, at character 1 of the expression; did you mean `length`?"),
        ("count(n) > 1", "no function `count`, at character 1"),
        ("sum(n) OVER () > 1", "`sum(n) OVER ()` is not among the expressions of `where`, at character 1"),
        ("length(n) > 1", "`length` does not take (INTEGER), at character 1"),
        ("1 < n < 3", "INTEGER and BOOLEAN have no type in common, at character 9"),
        ("n >", "expected an expression, and the expression ends"),
        ("n > 1)", "the expression ends before `)`, at character 6"),
        ("n > (SELECT 1)", "`(SELECT 1)` is not among the expressions of `where`, at character 6"),
        ("day > 'soon'", "'soon' is no DATE, at character 7"),
        (
            "CAST(kind AS INT) = 1",
            "INT does not hold every TEXT, at character 6 of the expression; TRY_CAST gives null",
        ),
        ("CAST(x AS BLOB) = 1", "no cast to BLOB, at character 6"),
        ("kind LIKE 'a' ESCAPE '!!'", "ESCAPE takes one character in quotes, at character 22"),
        ("kind LIKE 'a!' ESCAPE '!'", "the pattern ends with its escape character, at character 23"),
        ("-n ^ 2 = 4", "a sign in front of a power, at character 2"),
        ("big * big * big > 1", "this may have more than 38 digits, at character 1"),
        ("kind = \"sum\"", "no column `sum`, at character 8 of the expression; 'sum' in single quotes is a text"),
        (&format!("{}n > 1{}", "(".repeat(5000), ")".repeat(5000)), "the expression has more than 4000 words"),
        (&format!("{}n > 1{}", "(".repeat(500), ")".repeat(500)), "the expression is nested more than 100 deep"),
        (&format!("n{} > 1", " + 1".repeat(1000)), "the expression is too large from here on"),
    ] {
        let problem = Filter::new(text, &rows.schema()).unwrap_err();
        let found = format!("{}; {}", problem.message, problem.help.unwrap_or_default());
        assert!(found.starts_with(expected), "{text}: {found}");
    }
    let many = format!("n > 1{}", " OR n = 5".repeat(900));
    assert!(Filter::new(&many, &rows.schema()).unwrap().keep(&rows).is_ok());
    let ids: Vec<String> = (0..5000).map(|id| format!("'id-{id}'")).collect();
    let listed = Filter::new(&format!("kind IN ({}, 'sum')", ids.join(", ")), &rows.schema()).unwrap();
    assert_eq!(listed.keep(&rows).unwrap(), BooleanArray::from(vec![true, false, false]));
}

#[test]
fn comparisons_with_constants_are_found() {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("m", DataType::Int64, true),
        Field::new("kind", DataType::Utf8, true),
    ]);
    let bounds = |text: &str| {
        let found = Filter::new(text, &schema).unwrap().bounds();
        found.into_iter().map(|bound| (bound.column, bound.compare, bound.value)).collect::<Vec<_>>()
    };
    let five = ("n".to_owned(), Compare::Less, bounds::Value::Integer(5));
    assert_eq!(bounds("n < 5"), std::slice::from_ref(&five));
    assert_eq!(
        bounds("5 > N AND (kind = 'list' AND length(kind) > 2)"),
        [five, ("kind".into(), Compare::Equal, bounds::Value::Text("list".into()))]
    );
    for nothing in ["n < 5 OR kind = 'list'", "NOT n < 5", "n < 5.5", "n < m", "n <> 5", "n + 1 < 5"] {
        assert_eq!(bounds(nothing), [], "{nothing}");
    }
    let filter = Filter::new("m < 5 OR NOT (length(kind) > 2 AND M IS NULL)", &schema).unwrap();
    assert_eq!(filter.columns(), ["m", "kind"]);
    assert_eq!(Filter::new("1 = 1", &schema).unwrap().columns(), [""; 0]);
}

/// Whatever type a column has, an expression that names it is an answer or an error, never a panic.
#[test]
fn columns_of_every_type_can_be_named() {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), Some("2"), None]));
    let element = |data_type| Arc::new(Field::new("element", data_type, true));
    let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
    let micro = TimeUnit::Microsecond;
    let types = [
        DataType::Int8,
        DataType::UInt16,
        DataType::UInt64,
        DataType::Float16,
        DataType::Boolean,
        DataType::Null,
        DataType::Date32,
        DataType::Date64,
        DataType::Timestamp(micro, None),
        DataType::Timestamp(micro, Some("Europe/Rome".into())),
        DataType::Time32(TimeUnit::Second),
        DataType::Time64(micro),
        DataType::Duration(micro),
        DataType::Decimal128(10, 2),
        DataType::Decimal128(10, -2),
        DataType::Decimal256(50, 2),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::FixedSizeBinary(1),
        DataType::Utf8View,
        DataType::LargeUtf8,
        dictionary(DataType::Utf8),
        dictionary(DataType::Int64),
        DataType::List(element(DataType::Utf8)),
        DataType::LargeList(element(dictionary(DataType::Utf8))),
        DataType::ListView(element(DataType::Utf8)),
        DataType::FixedSizeList(element(DataType::Int64), 1),
        DataType::Struct(vec![Field::new("x", dictionary(DataType::Utf8), true)].into()),
    ];
    for data_type in types {
        let column = cast(&number, &data_type).or_else(|_| cast(&text, &data_type));
        let column = column.unwrap_or_else(|_| arrow::array::new_null_array(&data_type, 3));
        let batch = batch(vec![("x", column.clone()), ("y", number.clone())]);
        for text in ["x IS NOT NULL", "x > 1", "x = '2'", "x[1] = 1", "x.x = 'a'", "length(x) > 0", "y > 1"] {
            let kept = Filter::new(text, &batch.schema()).map(|filter| filter.keep(&batch).unwrap());
            assert!(kept.is_ok() || !text.starts_with("y") && text != "x IS NOT NULL", "{data_type}: {text}: {kept:?}");
            if text == "x IS NOT NULL" {
                let valid: Vec<bool> = (0..3).map(|row| column.is_valid(row) && data_type != DataType::Null).collect();
                assert_eq!(kept.unwrap(), BooleanArray::from(valid), "{data_type}");
            }
        }
    }
    let words = cast(&text, &dictionary(DataType::Utf8)).unwrap();
    let batch = batch(vec![("x", words)]);
    let kept = Filter::new("x = '2'", &batch.schema()).unwrap().keep(&batch).unwrap();
    assert_eq!(kept, BooleanArray::from(vec![false, true, false]));
}

//! Records that give back the very numbers that were put in. Without its feature `float_roundtrip`, serde_json may read
//! a number's last bit wrongly, and a report that is remembered would differ from the one that was printed. The numbers'
//! bits therefore stand beside them, in the order in which they are met.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The key of the bits.
const BITS: &str = "bits";

/// `record`, which is a map, as JSON.
pub(super) fn to_json(record: &impl Serialize) -> Vec<u8> {
    let mut value = serde_json::to_value(record).expect("a record is plain data");
    let mut bits = Vec::new();
    each_float(&mut value, &mut |number| {
        bits.push(number.to_bits());
        number
    });
    if let Value::Object(entries) = &mut value {
        entries.insert(BITS.to_owned(), json!(bits));
    }
    serde_json::to_vec_pretty(&value).expect("a record is plain data")
}

/// The record that [`to_json`] made; none where it is damaged.
pub(super) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(json).ok()?;
    let bits = value.as_object_mut()?.shift_remove(BITS)?;
    let bits: Vec<u64> = serde_json::from_value(bits).ok()?;
    let mut left = bits.into_iter();
    let mut whole = true;
    each_float(&mut value, &mut |read| {
        let exact = left.next().map(f64::from_bits).filter(|exact| (exact - read).abs() <= read.abs() * 1e-12);
        whole &= exact.is_some();
        exact.unwrap_or(read)
    });
    (whole && left.next().is_none()).then(|| serde_json::from_value(value).ok()).flatten()
}

fn each_float(value: &mut Value, change: &mut dyn FnMut(f64) -> f64) {
    match value {
        Value::Number(number) if number.is_f64() => *value = json!(change(number.as_f64().unwrap_or_default())),
        Value::Array(items) => items.iter_mut().for_each(|item| each_float(item, change)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| each_float(entry, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let numbers =
            |seed: u64| f64::from_le_bytes(blake3::hash(&seed.to_le_bytes()).as_bytes()[..8].try_into().unwrap());
        let finite: Vec<f64> = (0..5000).map(numbers).filter(|number| number.is_finite()).collect();
        let plain: Vec<f64> = serde_json::from_slice(&serde_json::to_vec(&finite).unwrap()).unwrap();
        assert_ne!(plain, finite, "serde_json reads exactly now; this file can go");
        let record = json!({ "seconds": 0.1, "metrics": { "all": finite, "rows": 3 } });
        assert_eq!(from_json::<Value>(&to_json(&record)).unwrap(), record);
    }

    #[test]
    fn a_damaged_record_is_none() {
        let json = String::from_utf8(to_json(&json!({ "seconds": 0.125, "rows": 3 }))).unwrap();
        assert!(from_json::<Value>(json.as_bytes()).is_some());
        for damaged in [&json[..json.len() / 2], &json.replace("0.125", "0.225"), "{}", "[]", ""] {
            assert_eq!(from_json::<Value>(damaged.as_bytes()), None, "{damaged}");
        }
    }
}

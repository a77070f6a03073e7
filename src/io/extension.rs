//! Arrow extension types: what a column means beyond what it is stored as.
//!
//! <https://arrow.apache.org/docs/format/CanonicalExtensions.html>

use arrow::datatypes::Field;

/// Key of a field's metadata that names its extension type.
pub const NAME: &str = "ARROW:extension:name";

/// Texts of JSON.
pub const JSON: &str = "arrow.json";

/// The extension type of `field`, if it is of one.
pub fn name(field: &Field) -> Option<&str> {
    field.metadata().get(NAME).map(String::as_str)
}

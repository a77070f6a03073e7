//! The names of tensors in checkpoints.

/// The name under which PEFT stores the model's parameter `name`.
pub fn peft_name(name: &str) -> String {
    format!("base_model.model.{}", name.replace(".adapter.", "."))
}

/// The layer that the tensor or layer `name` is part of, counted from 0.
pub(in crate::model) fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// The first few of `names`.
pub(in crate::model) fn shorten(names: &[&str]) -> String {
    let shown = names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=8 => shown,
        more => format!("{shown} and {} more", more - 8),
    }
}

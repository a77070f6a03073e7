//! The names of tensors in checkpoints.

/// The name under which PEFT stores the model's parameter `name`.
pub fn peft_name(name: &str) -> String {
    format!("base_model.model.{}", name.replace(".adapter.", "."))
}

/// The index of the layer in the name of a tensor or linear layer, counted from 0.
pub(in crate::model) fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// The first names, and how many more there are, for a message.
pub(in crate::model) fn shorten(names: &[&str]) -> String {
    let shown = names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=8 => shown,
        more => format!("{shown} and {} more", more - 8),
    }
}

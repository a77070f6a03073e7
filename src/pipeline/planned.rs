//! A pipeline file, parsed and planned once.

use super::sources::Sources;
use super::sweep::{self, Variant};
use super::{Plan, Spec};
use crate::error::Result;
use crate::monitor::Monitor;

/// A pipeline file with its plan, or with the plans of its sweep's variants.
#[derive(Debug)]
pub struct Planned {
    /// The file's name.
    pub name: String,
    /// The variants of the sweep; none without a sweep.
    pub variants: Vec<Variant>,
    /// The plan, or one for every variant.
    pub plans: Vec<Plan>,
}

impl Planned {
    /// Parses and plans `text`, which was read from `name`, with `vars` over the file's own.
    ///
    /// # Errors
    /// Every problem that can be found without reading rows, each with its position; a store that fails.
    pub fn new(
        text: &str,
        name: &str,
        vars: &[(String, String)],
        sources: &mut Sources,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let spec = Spec::parse(text, name, vars)?;
        let variants = sweep::variants(&spec, text, vars)?;
        let plans = match &variants[..] {
            [] => vec![Plan::watched(&spec, sources, monitor)?],
            variants => sweep::plans(variants, sources, monitor)?,
        };
        Ok(Self { name: name.to_owned(), variants, plans })
    }
}

//! A pipeline file, parsed and planned once.

use super::sources::Sources;
use super::spec::in_order;
use super::sweep::{self, Variant};
use super::{Plan, Spec};
use crate::error::{Error, Mistake, Result};
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
        let (spec, found) = Spec::sound(text, name, vars)?;
        let mut mistakes = Mistakes(found);
        let Some(spec) = spec else { return Err(mistakes.error(name)) };
        let variants = mistakes.of(sweep::variants(&spec, text, vars))?.unwrap_or_default();
        let plans = match &variants[..] {
            [] => Plan::watched(&spec, sources, monitor).map(|plan| vec![plan]),
            variants => sweep::plans(variants, sources, monitor),
        };
        let plans = mistakes.of(plans)?.unwrap_or_default();
        mistakes.none(name)?;
        Ok(Self { name: name.to_owned(), variants, plans })
    }
}

/// Mistakes of a pipeline file that were found one after the other, to be reported together.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The `result`; none if there are mistakes in it, which are kept. Beside mistakes, other errors can wait.
    ///
    /// # Errors
    /// An error that is no mistake of the file, as long as there are no mistakes; [`Error::Interrupted`].
    pub(super) fn of<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(Error::Pipeline { mistakes, .. }) => {
                self.0.extend(mistakes);
                Ok(None)
            }
            Err(error) if self.0.is_empty() || matches!(error, Error::Interrupted) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// # Errors
    /// All mistakes of the file `name`, if there are any.
    pub(super) fn none(self, name: &str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.error(name)) }
    }

    /// Each mistake once, in the order of the file `name`.
    fn error(self, name: &str) -> Error {
        Error::pipeline(name, in_order(self.0))
    }
}

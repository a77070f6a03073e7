//! A value that is made on first use and kept, whatever its type: what a batch holds on a device, whose type depends on the back end.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

/// One value of any type.
#[derive(Default)]
pub(super) struct Once(OnceLock<Box<dyn Any + Send + Sync>>);

impl Once {
    /// The kept value if it has type `T` and `fits`, else a new one, which is kept if it is the first.
    pub(super) fn get<T: Any + Clone + Send + Sync>(&self, fits: impl Fn(&T) -> bool, make: impl Fn() -> T) -> T {
        let kept = self.0.get_or_init(|| Box::new(make())).downcast_ref::<T>().filter(|kept| fits(kept));
        kept.cloned().unwrap_or_else(make)
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Once(made)" } else { "Once" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_and_only_reused_where_it_fits() {
        let (once, calls) = (Once::default(), std::cell::Cell::new(0));
        let make = || {
            calls.set(calls.get() + 1);
            7i32
        };
        assert_eq!([once.get(|_| true, make), once.get(|_| true, make)], [7, 7]);
        assert_eq!(calls.get(), 1);
        assert_eq!(once.get(|kept| *kept == 8, make), 7);
        assert_eq!(calls.get(), 2);
        assert_eq!(once.get(|_| true, || "another type"), "another type");
    }
}

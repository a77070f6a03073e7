//! Panics of other crates, which trust what they read, as messages.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether panics of this thread are caught, so that nobody needs to read of them.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `work` makes.
///
/// # Errors
/// The words of its panic, which are not printed.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let outer = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                outer(panic);
            }
        }));
    });
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(before);
    result.map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        words.unwrap_or("no reason given").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_words() {
        let empty: [u8; 0] = [];
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| panic!("why")), Err::<(), _>("why".to_owned()));
        let index = std::hint::black_box(3);
        assert!(caught(|| empty[index]).unwrap_err().contains("out of bounds"));
    }
}

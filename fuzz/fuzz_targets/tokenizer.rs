//! tokenizer.json: opened, used on text, compared and digested.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::text::Tokenizer;
use sepo::text::tokenizer::compare::difference;
use sepo_fuzz::{file, folder};

const TEXTS: [&str; 4] = ["", "Hello, world 12\n\n", "ü🙂\u{301}\u{0}<s> </s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];

fuzz_target!(|content: &[u8]| {
    file("tokenizer.json", content);
    let Ok(tokenizer) = Tokenizer::load(folder()) else { return };
    let size = tokenizer.vocab_size();
    for text in TEXTS {
        let ids = tokenizer.encode(text);
        let with_offsets = tokenizer.encode_with_offsets(text);
        if let (Ok(ids), Ok((same, offsets))) = (&ids, &with_offsets) {
            assert_eq!((ids, ids.len()), (same, offsets.len()));
        }
        let ids = ids.unwrap_or_default();
        assert!(ids.iter().all(|id| usize::try_from(*id).is_ok_and(|id| id < size)), "{ids:?} of {size}");
        let _ = tokenizer.decode(&ids);
    }
    tokenizer.special_ids();
    let _ = tokenizer.check_fits(10);
    if let Ok(difference) = difference(("a", &tokenizer), ("b", &tokenizer)) {
        assert_eq!(difference, None, "a tokenizer differs from itself");
    }
});

//! The small files beside a model's weights: configurations, the tokenizer, a chat template. They are read whole, so they have
//! a bound.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Most bytes of such a file. The largest that are published, tokenizers of 260,000 tokens, have 40 MiB.
const MOST: u64 = 256 << 20;

/// The content of `path`.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("more than {MOST} bytes; no such file is as large"),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        // A hole in a file takes no space on the disk.
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "more than 268435456 bytes; no such file is as large");
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

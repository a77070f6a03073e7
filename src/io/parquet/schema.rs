//! Whether the schema in a footer can be true, before the reader believes it: it makes room for as many children as an element
//! says that it has, and with two billion of them no machine has that; and elements in elements end the stack.
//!
//! The footer is a struct of Thrift's compact protocol, and begins with a number and the list of the schema's elements, whose
//! fifth field is the number of children (parquet.thrift). The reader goes by the numbers of fields and not by the kinds that
//! stand beside them, so that a wrong kind would lead it elsewhere than here: there must be none.

use super::thrift::{BINARY, Cursor, I32, LIST, STRUCT};

/// What is wrong with the schema of the file whose last bytes are `end`.
pub(super) fn check(end: &[u8]) -> Result<(), String> {
    let mut seen = FooterSize::default();
    let followed = seen.read(end);
    let FooterSize { elements, children, deepest } = seen;
    if children > elements {
        return Err(format!("an element of the schema would have {children} children; there are {elements} elements"));
    }
    if deepest > DEPTH {
        return Err(format!("its schema is nested more than {DEPTH} deep"));
    }
    followed.ok_or_else(|| "not a whole Parquet file: its schema cannot be followed".to_owned())
}

/// Deepest nesting: the reader goes down by recursion, and a list of structs takes three of these.
const DEPTH: usize = 200;

/// How many elements there are, the most children of one of them, and how deep they are nested, as far as the footer could be
/// followed.
#[derive(Default)]
struct FooterSize {
    elements: u64,
    children: u64,
    deepest: usize,
}

impl FooterSize {
    fn read(&mut self, end: &[u8]) -> Option<()> {
        let (footer, trailer) = end.split_at_checked(end.len().checked_sub(8)?)?;
        let length = u32::from_le_bytes(*trailer.first_chunk()?) as usize;
        let mut cursor = Cursor(&footer[footer.len().checked_sub(length)?..]);
        let mut field = 0;
        let mut expect = |cursor: &mut Cursor, number: i64, kind: u8| {
            (cursor.field(&mut field)? == Some(kind) && field == number).then_some(())
        };
        expect(&mut cursor, 1, I32)?;
        cursor.varint()?;
        expect(&mut cursor, 2, LIST)?;
        let (elements, kind) = cursor.list()?;
        self.elements = elements;
        (kind == STRUCT).then_some(())?;
        // Of the elements that are open, the children that are to come.
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..elements {
            let mut field = 0;
            let mut children = 0;
            while let Some(kind) = cursor.field(&mut field)? {
                match (field, kind) {
                    // The reader takes the lower half of a number that is too long. Below zero are more than there are.
                    (5, I32) => children = u64::from(cursor.zigzag()? as u32),
                    (1..=3 | 6..=9, I32) | (4, BINARY) | (10, STRUCT) => cursor.skip(kind, 0)?,
                    (1..=10, _) => return None,
                    _ => cursor.skip(kind, 0)?,
                }
            }
            self.children = self.children.max(children);
            while open.pop_if(|left| *left == 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            if children > 0 {
                open.push(children);
                self.deepest = self.deepest.max(open.len());
            }
        }
        Some(())
    }
}

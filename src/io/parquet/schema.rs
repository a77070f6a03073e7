//! Whether the schema in a footer can be true, before the reader believes it: it makes room for as many children as an element
//! says that it has, and with two billion of them no machine has that.
//!
//! The footer is a struct of Thrift's compact protocol, and begins with a number and the list of the schema's elements, whose
//! fifth field is the number of children (parquet.thrift). The reader goes by the numbers of fields and not by the kinds that
//! stand beside them, so that a wrong kind would lead it elsewhere than here: there must be none.

/// What is wrong with the schema of the file whose last bytes are `end`.
pub(super) fn check(end: &[u8]) -> Result<(), String> {
    let mut seen = Seen::default();
    let followed = seen.read(end);
    let Seen { elements, children } = seen;
    if children > elements {
        return Err(format!("an element of the schema would have {children} children; there are {elements} elements"));
    }
    followed.ok_or_else(|| "not a whole Parquet file: its schema cannot be followed".to_owned())
}

/// How many elements there are, and the most children of one of them, as far as the footer could be followed.
#[derive(Default)]
struct Seen {
    elements: u64,
    children: u64,
}

impl Seen {
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
        for _ in 0..elements {
            let mut field = 0;
            while let Some(kind) = cursor.field(&mut field)? {
                match (field, kind) {
                    // The reader takes the lower half of a number that is too long. Below zero are more than there are.
                    (5, I32) => self.children = self.children.max(u64::from(cursor.zigzag()? as u32)),
                    (1..=3 | 6..=9, I32) | (4, BINARY) | (10, STRUCT) => cursor.skip(kind, 0)?,
                    (1..=10, _) => return None,
                    _ => cursor.skip(kind, 0)?,
                }
            }
        }
        Some(())
    }
}

const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The kind of a struct's next field, whose number replaces `field`; none at the struct's end.
    fn field(&mut self, field: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *field = match head >> 4 {
            0 => self.zigzag()?,
            more => field.checked_add(i64::from(more))?,
        };
        Some(Some(head & 0x0f))
    }

    /// The number of a list's values, and their kind.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Some((count, head & 0x0f))
    }

    fn take(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: u8) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.take(1),
            4..=6 => self.varint().map(drop),
            7 => self.take(8),
            BINARY => {
                let bytes = self.varint()?;
                self.take(bytes)
            }
            LIST | 10 if depth < 16 => {
                let (count, kind) = self.list()?;
                // A truth value has a byte here.
                (0..count).try_for_each(|_| if kind < 3 { self.take(1) } else { self.skip(kind, depth + 1) })
            }
            STRUCT if depth < 16 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}

//! The files of a dataset on a shelf: a piece for every few row groups, all of them there from the start.

use super::{Contents, Opened, PORTION, Piece, Shelf, Ticket};
use crate::error::{Error, Place, Result};
use crate::io::dataset::Unit;
use crate::io::find::WILD;
use crate::io::owned::some_of;
use crate::io::{Dataset, Location, Stores};

/// A dataset in the version that was there when it was opened.
pub struct Files {
    dataset: Dataset,
    /// Of every file its path below what was opened.
    names: Vec<String>,
    units: Vec<Unit>,
}

impl Files {
    /// The files at `path`: one file, or all below a folder.
    ///
    /// # Errors
    /// As [`Dataset::open`]; two files that would have one name.
    pub fn open(path: &str, stores: &Stores) -> Result<Self> {
        let dataset = Dataset::open(&[path.to_owned()], stores)?;
        let root = stores.locate(path).ok().filter(|_| !path.contains(WILD)).map(|root| root.canonical());
        let name = |file: &Location| match root.as_ref().map(|root| file.canonical().below(root)) {
            // A file that was named itself.
            Some(Some(name)) if !name.is_empty() => Ok(name),
            Some(None) => {
                let message = format!("is a link out of {path}, and only files below it are served; serve its target");
                Err(Error::data(Place::file(file), message))
            }
            _ => Ok(file.name().to_owned()),
        };
        let names: Vec<String> = dataset.files().map(name).collect::<Result<_>>()?;
        let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
        if let Some((_, name)) = twice {
            return Err(Error::data(
                Place::file(path),
                format!("two files would be served as `{name}`; serve a folder"),
            ));
        }
        let units = dataset.units();
        Ok(Self { dataset, names, units })
    }

    /// Number of files.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.dataset.rows()
    }
}

impl Shelf for Files {
    fn look(&self) -> Result<Option<Contents>> {
        let piece = |unit: &Unit| Piece {
            ticket: Ticket::new(&self.names[unit.file], unit.groups.clone()),
            rows: Some(unit.rows),
        };
        let pieces = self.units.iter().map(piece).collect();
        Ok(Some(Contents { schema: self.dataset.schema().clone(), pieces }))
    }

    fn open(&self, ticket: &Ticket) -> Result<Opened> {
        let Some(file) = self.names.iter().position(|name| *name == ticket.file) else {
            let known = some_of(&self.names);
            return Ok(Opened::Unknown(format!("no file `{}` is served; there are {known}", ticket.file)));
        };
        let count = self.units.iter().filter(|unit| unit.file == file).map(|unit| unit.groups.end).max().unwrap_or(0);
        let groups = match ticket.of(count) {
            Ok(groups) => groups,
            Err(wrong) => return Ok(Opened::Unknown(wrong)),
        };
        let is_last = file + 1 == self.names.len() && groups.end == count;
        let rows = self.dataset.read_groups(file, groups, PORTION)?;
        Ok(Opened::Rows { schema: self.dataset.schema().clone(), rows, is_last })
    }

    fn is_complete(&self) -> Result<bool> {
        Ok(true)
    }
}

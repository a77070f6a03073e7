//! Which units of work a run does.

/// The units of work that a run does if nobody has done them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Assignment {
    /// All of them.
    #[default]
    All,
    /// One share; others do the rest.
    Share(Share),
    /// None: what others did is merged.
    Merge,
}

/// Every unit of work whose index leaves this remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: usize,
    of: usize,
}

impl Assignment {
    /// Whether unit `unit` is to be done.
    pub(super) fn holds(self, unit: usize) -> bool {
        match self {
            Self::All => true,
            Self::Share(share) => unit % share.of == share.index,
            Self::Merge => false,
        }
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    /// `i/n`, from 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index @ 1.., of)) if index <= of => Ok(Self { index: index - 1, of }),
            _ => Err("give i/n with 1 <= i <= n, for example 2/8"),
        }
    }
}

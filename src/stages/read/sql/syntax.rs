//! What a SQL expression says, before anybody knows its columns.

/// A part of an expression, and the character, from 1, at which it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Syntax {
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// Parts inside of parts: what is evaluated takes a stack frame for each.
    pub(super) depth: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Column(String),
    Field(Box<Syntax>, String),
    Index(Box<Syntax>, Box<Syntax>),
    Not(Box<Syntax>),
    Negate(Box<Syntax>),
    /// All of two or more.
    And(Vec<Syntax>),
    /// Any of two or more.
    Or(Vec<Syntax>),
    Binary(Operator, Box<Syntax>, Box<Syntax>),
    Is {
        value: Box<Syntax>,
        test: Test,
        is_negated: bool,
    },
    Distinct {
        left: Box<Syntax>,
        right: Box<Syntax>,
        is_negated: bool,
    },
    Between {
        value: Box<Syntax>,
        low: Box<Syntax>,
        high: Box<Syntax>,
        is_negated: bool,
    },
    In {
        value: Box<Syntax>,
        list: Vec<Syntax>,
        is_negated: bool,
    },
    Like {
        value: Box<Syntax>,
        pattern: Box<Syntax>,
        escape: Option<Box<Syntax>>,
        case: Case,
        is_negated: bool,
    },
    Case {
        operand: Option<Box<Syntax>>,
        branches: Vec<(Syntax, Syntax)>,
        otherwise: Option<Box<Syntax>>,
    },
    Cast {
        value: Box<Syntax>,
        to: String,
        failing: Failing,
    },
    Call {
        name: String,
        arguments: Vec<Syntax>,
    },
}

/// What stands between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    IntegerDivide,
    Remainder,
    Power,
    Concatenate,
}

/// What `IS` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Null,
    True,
    False,
}

/// Whether upper and lower case are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Matters,
    Ignored,
}

/// What becomes of a value that cannot be cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// The row is an error.
    Error,
    /// It is null.
    Null,
}

impl Syntax {
    pub(super) fn new(at: usize, kind: Kind) -> Self {
        let depth = 1 + kind.parts().iter().map(|part| part.depth).max().unwrap_or_default();
        Self { at, kind, depth }
    }
}

impl Kind {
    fn parts(&self) -> Vec<&Syntax> {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Column(_) => Vec::new(),
            Self::Field(part, _) | Self::Not(part) | Self::Negate(part) => vec![part],
            Self::Is { value, .. } | Self::Cast { value, .. } => vec![value],
            Self::Index(left, right) | Self::Binary(_, left, right) | Self::Distinct { left, right, .. } => {
                vec![left, right]
            }
            Self::And(parts) | Self::Or(parts) | Self::Call { arguments: parts, .. } => parts.iter().collect(),
            Self::Between { value, low, high, .. } => vec![value, low, high],
            Self::In { value, list, .. } => std::iter::once(&**value).chain(list).collect(),
            Self::Like { value, pattern, escape, .. } => {
                [value, pattern].into_iter().chain(escape).map(AsRef::as_ref).collect()
            }
            Self::Case { operand, branches, otherwise } => {
                let branches = branches.iter().flat_map(|(when, then)| [when, then]);
                branches.chain(operand.iter().chain(otherwise).map(AsRef::as_ref)).collect()
            }
        }
    }
}

//! SQL expressions to [`Syntax`], with the precedence of PostgreSQL and DuckDB, from OR up to `::`.

use super::Wrong;
use super::syntax::{Case, Failing, Kind, Operator, Syntax, Test};
use super::token::{Lexeme, Token, tokens};

/// Deepest nesting of an expression.
const DEPTH: usize = 100;

/// The expression that `text` is.
///
/// # Errors
/// The place where it is not SQL.
pub(super) fn parse(text: &str) -> Result<Syntax, Wrong> {
    let mut parser = Parser { lexemes: tokens(text)?, next: 0, open: 0 };
    let syntax = parser.any()?;
    match parser.peek() {
        Token::End => Ok(syntax),
        other => Err(Wrong::at(parser.at(), format!("the expression ends before {}", other.shown()))),
    }
}

struct Parser {
    lexemes: Vec<Lexeme>,
    next: usize,
    /// Expressions that are being read, one inside the other.
    open: usize,
}

/// Words that cannot be names of columns.
const KEYWORDS: [&str; 24] = [
    "AND", "OR", "NOT", "IS", "NULL", "TRUE", "FALSE", "BETWEEN", "IN", "LIKE", "ILIKE", "ESCAPE", "CASE", "WHEN",
    "THEN", "ELSE", "END", "CAST", "TRY_CAST", "DISTINCT", "SELECT", "FROM", "WHERE", "EXISTS",
];

impl Parser {
    fn peek(&self) -> &Token {
        &self.lexemes[self.next].token
    }

    fn at(&self) -> usize {
        self.lexemes[self.next].at
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.lexemes.len() - 1);
        token
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        let lexeme = self.lexemes.get(self.next + ahead);
        matches!(lexeme.map(|lexeme| &lexeme.token), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        self.next += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, what: &str, found: bool) -> Result<(), Wrong> {
        if found { Ok(()) } else { Err(self.wanted(what)) }
    }

    fn wanted(&self, what: &str) -> Wrong {
        Wrong::at(self.at(), format!("{what} instead of {}", self.peek().shown()))
    }

    fn made(&self, at: usize, kind: Kind) -> Result<Syntax, Wrong> {
        let syntax = Syntax::new(at, kind);
        if syntax.depth > DEPTH {
            return Err(Wrong::at(at, format!("the expression is nested more than {DEPTH} deep")));
        }
        Ok(syntax)
    }

    fn any(&mut self) -> Result<Syntax, Wrong> {
        self.open += 1;
        if self.open > DEPTH {
            return Err(Wrong::at(self.at(), format!("the expression is nested more than {DEPTH} deep")));
        }
        let found = self.joined("OR", Self::all, Kind::Or);
        self.open -= 1;
        found
    }

    fn all(&mut self) -> Result<Syntax, Wrong> {
        self.joined("AND", Self::not, Kind::And)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Syntax, Wrong>,
        kind: fn(Vec<Syntax>) -> Kind,
    ) -> Result<Syntax, Wrong> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.word(word) {
            parts.push(part(self)?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        self.made(parts[0].at, kind(parts))
    }

    fn not(&mut self) -> Result<Syntax, Wrong> {
        let (at, mut count) = (self.at(), 0_usize);
        while self.word("NOT") {
            count += 1;
        }
        let value = self.tested()?;
        // Two of them only make the value a truth value.
        let times = if count > 2 { 2 - count % 2 } else { count };
        (0..times).try_fold(value, |value, _| self.made(at, Kind::Not(Box::new(value))))
    }

    /// `IS …` behind a comparison.
    fn tested(&mut self) -> Result<Syntax, Wrong> {
        let mut value = self.compared()?;
        loop {
            let at = self.at();
            let (test, is_negated) = if self.word("ISNULL") {
                (Test::Null, false)
            } else if self.word("NOTNULL") {
                (Test::Null, true)
            } else if self.word("IS") {
                let is_negated = self.word("NOT");
                if self.word("DISTINCT") {
                    let found = self.word("FROM");
                    self.expect("FROM", found)?;
                    let right = Box::new(self.compared()?);
                    value = self.made(at, Kind::Distinct { left: Box::new(value), right, is_negated })?;
                    continue;
                }
                let tests =
                    [("NULL", Test::Null), ("TRUE", Test::True), ("FALSE", Test::False), ("UNKNOWN", Test::Null)];
                let test = tests.into_iter().find(|(word, _)| self.word(word)).map(|(_, test)| test);
                (test.ok_or_else(|| self.wanted("NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM"))?, is_negated)
            } else {
                return Ok(value);
            };
            value = self.made(at, Kind::Is { value: Box::new(value), test, is_negated })?;
        }
    }

    fn compared(&mut self) -> Result<Syntax, Wrong> {
        let left = self.ranged()?;
        let at = self.at();
        let Some(operator) = self.comparison() else { return Ok(left) };
        let right = self.ranged()?;
        if matches!(self.peek(), Token::Sign("=" | "==" | "<>" | "!=" | "<" | "<=" | ">" | ">=")) {
            return Err(Wrong::at(self.at(), "one comparison behind another").help("join comparisons by AND"));
        }
        self.made(at, Kind::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn comparison(&mut self) -> Option<Operator> {
        let operator = match self.peek() {
            Token::Sign("=" | "==") => Operator::Equal,
            Token::Sign("<>" | "!=") => Operator::NotEqual,
            Token::Sign("<") => Operator::Less,
            Token::Sign("<=") => Operator::LessOrEqual,
            Token::Sign(">") => Operator::Greater,
            Token::Sign(">=") => Operator::GreaterOrEqual,
            _ => return None,
        };
        self.next += 1;
        Some(operator)
    }

    /// BETWEEN, IN and LIKE.
    fn ranged(&mut self) -> Result<Syntax, Wrong> {
        let value = self.concatenated()?;
        let at = self.at();
        let is_negated = self.is_word(0, "NOT");
        let begins = ["BETWEEN", "IN", "LIKE", "ILIKE"].iter().any(|word| self.is_word(usize::from(is_negated), word));
        if !begins {
            return Ok(value);
        }
        self.next += usize::from(is_negated);
        let value = Box::new(value);
        if self.word("BETWEEN") {
            let low = Box::new(self.concatenated()?);
            let found = self.word("AND");
            self.expect("AND", found)?;
            let high = Box::new(self.concatenated()?);
            return self.made(at, Kind::Between { value, low, high, is_negated });
        }
        if self.word("IN") {
            let found = self.sign("(");
            self.expect("a list in parentheses", found)?;
            let list = self.listed()?;
            if list.is_empty() {
                return Err(Wrong::at(at, "IN needs at least one value"));
            }
            return self.made(at, Kind::In { value, list, is_negated });
        }
        let case = if self.word("ILIKE") { Case::Ignored } else { Case::Matters };
        self.next += usize::from(case == Case::Matters);
        let pattern = Box::new(self.concatenated()?);
        let escape = if self.word("ESCAPE") { Some(Box::new(self.concatenated()?)) } else { None };
        self.made(at, Kind::Like { value, pattern, escape, case, is_negated })
    }

    fn concatenated(&mut self) -> Result<Syntax, Wrong> {
        self.chained(Self::summed, &[("||", Operator::Concatenate)])
    }

    fn summed(&mut self) -> Result<Syntax, Wrong> {
        self.chained(Self::multiplied, &[("+", Operator::Add), ("-", Operator::Subtract)])
    }

    fn multiplied(&mut self) -> Result<Syntax, Wrong> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::IntegerDivide),
            ("%", Operator::Remainder),
        ];
        self.chained(Self::raised, &operators)
    }

    fn raised(&mut self) -> Result<Syntax, Wrong> {
        self.chained(Self::negated, &[("^", Operator::Power), ("**", Operator::Power)])
    }

    /// Operators of one precedence, from left to right.
    fn chained(
        &mut self,
        part: fn(&mut Self) -> Result<Syntax, Wrong>,
        operators: &[(&str, Operator)],
    ) -> Result<Syntax, Wrong> {
        let mut left = part(self)?;
        loop {
            let at = self.at();
            let Some((_, operator)) = operators.iter().find(|(sign, _)| self.sign(sign)) else { return Ok(left) };
            let right = part(self)?;
            left = self.made(at, Kind::Binary(*operator, Box::new(left), Box::new(right)))?;
        }
    }

    fn negated(&mut self) -> Result<Syntax, Wrong> {
        let (at, mut count) = (self.at(), 0_usize);
        loop {
            if self.sign("-") {
                count += 1;
            } else if !self.sign("+") {
                break;
            }
        }
        let value = self.reached()?;
        let times = if count > 2 { 2 - count % 2 } else { count };
        (0..times).try_fold(value, |value, _| self.made(at, Kind::Negate(Box::new(value))))
    }

    /// Fields, elements and types behind a value.
    fn reached(&mut self) -> Result<Syntax, Wrong> {
        let mut value = self.value()?;
        loop {
            let at = self.at();
            let inner = |value| Box::new(value);
            let kind = if self.sign("::") {
                Kind::Cast { value: inner(value), to: self.type_name()?, failing: Failing::Error }
            } else if self.sign(".") {
                match self.take() {
                    Token::Word(field) | Token::Name(field) => Kind::Field(inner(value), field),
                    _ => return Err(Wrong::at(at, "a field's name belongs behind the point")),
                }
            } else if self.sign("[") {
                let index = self.any()?;
                let found = self.sign("]");
                self.expect("`]`", found)?;
                match index.kind {
                    Kind::Text(field) => Kind::Field(inner(value), field),
                    _ => Kind::Index(inner(value), Box::new(index)),
                }
            } else {
                return Ok(value);
            };
            value = self.made(at, kind)?;
        }
    }

    fn value(&mut self) -> Result<Syntax, Wrong> {
        let at = self.at();
        let is_call = self.lexemes.get(self.next + 1).is_some_and(|lexeme| lexeme.token == Token::Sign("("));
        match self.peek().clone() {
            Token::Number(number) => {
                self.next += 1;
                self.made(at, Kind::Number(number))
            }
            Token::Text(text) => {
                self.next += 1;
                self.made(at, Kind::Text(text))
            }
            Token::Name(name) => {
                self.next += 1;
                self.made(at, Kind::Column(name))
            }
            Token::Sign("(") => {
                self.next += 1;
                let value = self.any()?;
                let found = self.sign(")");
                self.expect("`)`", found)?;
                Ok(value)
            }
            Token::Word(word) => self.named(at, &word, is_call),
            _ => Err(self.wanted("a value")),
        }
    }

    fn named(&mut self, at: usize, word: &str, is_call: bool) -> Result<Syntax, Wrong> {
        let upper = word.to_ascii_uppercase();
        let kind = match upper.as_str() {
            "NULL" => Kind::Null,
            "TRUE" => Kind::Bool(true),
            "FALSE" => Kind::Bool(false),
            "CASE" => return self.case(at),
            "CAST" | "TRY_CAST" if is_call => {
                return self.cast(at, if upper == "CAST" { Failing::Error } else { Failing::Null });
            }
            "POSITION" if is_call => return self.position(at),
            _ if KEYWORDS.contains(&upper.as_str()) => return Err(self.wanted("a value")),
            _ if is_call => {
                self.next += 2;
                let arguments = self.listed()?;
                return self.made(at, Kind::Call { name: word.to_ascii_lowercase(), arguments });
            }
            "DATE" | "TIMESTAMP" if matches!(self.lexemes[self.next + 1].token, Token::Text(_)) => {
                self.next += 1;
                let value = Box::new(self.value()?);
                return self.made(at, Kind::Cast { value, to: upper, failing: Failing::Error });
            }
            _ => Kind::Column(word.to_owned()),
        };
        self.next += 1;
        self.made(at, kind)
    }

    /// What stands between parentheses, the first of which is read.
    fn listed(&mut self) -> Result<Vec<Syntax>, Wrong> {
        let mut list = Vec::new();
        if self.sign(")") {
            return Ok(list);
        }
        loop {
            list.push(self.any()?);
            if self.sign(")") {
                return Ok(list);
            }
            let found = self.sign(",");
            self.expect("`,` or `)`", found)?;
        }
    }

    fn case(&mut self, at: usize) -> Result<Syntax, Wrong> {
        self.next += 1;
        let operand = if self.is_word(0, "WHEN") { None } else { Some(Box::new(self.any()?)) };
        let mut branches = Vec::new();
        while self.word("WHEN") {
            let when = self.any()?;
            let found = self.word("THEN");
            self.expect("THEN", found)?;
            branches.push((when, self.any()?));
        }
        let otherwise = if self.word("ELSE") { Some(Box::new(self.any()?)) } else { None };
        let found = !branches.is_empty() && self.word("END");
        self.expect(if branches.is_empty() { "WHEN" } else { "END" }, found)?;
        self.made(at, Kind::Case { operand, branches, otherwise })
    }

    fn cast(&mut self, at: usize, failing: Failing) -> Result<Syntax, Wrong> {
        self.next += 2;
        let value = Box::new(self.any()?);
        let found = self.word("AS");
        self.expect("AS", found)?;
        let to = self.type_name()?;
        let found = self.sign(")");
        self.expect("`)`", found)?;
        self.made(at, Kind::Cast { value, to, failing })
    }

    /// `POSITION(a IN b)`, or a call with two arguments.
    fn position(&mut self, at: usize) -> Result<Syntax, Wrong> {
        self.next += 2;
        let sought = self.concatenated()?;
        let is_in = self.word("IN");
        let found = is_in || self.sign(",");
        self.expect("IN", found)?;
        let text = self.any()?;
        let found = self.sign(")");
        self.expect("`)`", found)?;
        let arguments = if is_in { vec![text, sought] } else { vec![sought, text] };
        self.made(at, Kind::Call { name: "strpos".to_owned(), arguments })
    }

    fn type_name(&mut self) -> Result<String, Wrong> {
        let Token::Word(word) = self.peek().clone() else { return Err(self.wanted("a type")) };
        self.next += 1;
        if word.eq_ignore_ascii_case("DOUBLE") {
            self.word("PRECISION");
        }
        Ok(word.to_ascii_uppercase())
    }
}

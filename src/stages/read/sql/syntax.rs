//! The text of a `where:` as a tree: the parser that polars uses, with DuckDB's operators and their precedence.

use std::any::TypeId;

use sqlparser::ast::{Expr, Spanned};
use sqlparser::dialect::{Dialect, DuckDbDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::error::Problem;

/// Why an expression is refused, and where in its text.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    message: String,
    at: Option<Location>,
    help: Option<String>,
}

impl Wrong {
    /// At the first character of `node`.
    pub(super) fn at(node: &impl Spanned, message: impl Into<String>) -> Self {
        Self::near(node.span().start, message)
    }

    pub(super) fn near(at: Location, message: impl Into<String>) -> Self {
        Self { message: message.into(), at: (at.line > 0).then_some(at), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The problem of a pipeline whose `where` is `text`.
    pub(super) fn problem(self, text: &str) -> Problem {
        let at = self.at.map_or_else(String::new, |Location { line, column }| {
            let above: usize = text.split('\n').take(line as usize - 1).map(|line| line.chars().count() + 1).sum();
            format!(", at character {} of the expression", above + column as usize)
        });
        let problem = Problem::at("where", format!("{}{at}", self.message));
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

/// DuckDB's SQL.
#[derive(Debug)]
struct Sql;

impl Dialect for Sql {
    fn dialect(&self) -> TypeId {
        TypeId::of::<DuckDbDialect>()
    }

    fn is_identifier_start(&self, c: char) -> bool {
        c.is_alphabetic() || c == '_'
    }

    fn is_identifier_part(&self, c: char) -> bool {
        c.is_alphanumeric() || c == '$' || c == '_'
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match parser.peek_token_ref().token {
            Token::StringConcat => Some(Ok(25)),
            _ => None,
        }
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::Caret => 45,
            Precedence::Between | Precedence::Like => 22,
            other => DuckDbDialect.prec_value(other),
        }
    }

    /// The parser takes everything behind `IS DISTINCT FROM` for its right side.
    fn parse_infix(&self, parser: &mut Parser<'_>, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let distinct = match parser.parse_keywords(&[IS, DISTINCT, FROM]) {
            true => Expr::IsDistinctFrom,
            false if parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]) => Expr::IsNotDistinctFrom,
            false => return None,
        };
        Some(parser.parse_subexpr(precedence).map(|right| distinct(Box::new(left.clone()), Box::new(right))))
    }
}

/// Deepest nesting of parentheses and calls.
const DEPTH: usize = 100;
/// Most operators, keywords and names.
const WORDS: usize = 4000;

/// The tree of `text`.
pub(super) fn parse(text: &str) -> Result<Expr, Wrong> {
    let tokens = Tokenizer::new(&Sql, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| Wrong::near(error.location, error.message))?;
    let is_word = |token: &Token| !matches!(token, Token::Comma | Token::Whitespace(_) | Token::SingleQuotedString(_));
    if tokens.iter().filter(|token| is_word(&token.token)).count() > WORDS {
        let nowhere = Location { line: 0, column: 0 };
        return Err(Wrong::near(nowhere, format!("the expression has more than {WORDS} words")));
    }
    let mut parser = Parser::new(&Sql).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens);
    let parsed = parser.parse_expr();
    let next = parser.peek_token();
    match (parsed, next.token) {
        (Ok(parsed), Token::EOF) => Ok(parsed),
        (Ok(_), token) => Err(Wrong::near(next.span.start, format!("the expression ends before `{token}`"))),
        (Err(error), _) => Err(not_parsed(&error)),
    }
}

/// The parser's errors end with ` at Line: 1, Column: 5`.
fn not_parsed(error: &ParserError) -> Wrong {
    let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = error else {
        return Wrong { message: format!("the expression is nested more than {DEPTH} deep"), at: None, help: None };
    };
    let (message, place) = text.rsplit_once(" at Line: ").unwrap_or((text, ""));
    let numbers =
        place.split_once(", Column: ").and_then(|(line, column)| Some((line.parse().ok()?, column.parse().ok()?)));
    let message = message.replace("Expected: ", "expected ").replace(", found: EOF", ", and the expression ends");
    let at = numbers.map(|(line, column)| Location { line, column });
    Wrong { message: message.replace(", found: ", ", found "), at, help: None }
}

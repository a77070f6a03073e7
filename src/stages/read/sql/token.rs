//! The words, names, texts, numbers and signs of a SQL expression, each with the character at which it begins.

use super::Wrong;

/// A piece of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword, or a name without quotes.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    Number(String),
    Sign(&'static str),
    End,
}

impl Token {
    /// It as a message names it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Word(text) | Self::Number(text) => format!("`{text}`"),
            Self::Name(name) => format!("`\"{name}\"`"),
            Self::Text(text) => format!("`'{text}'`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// A token and the character, from 1, at which it begins.
#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) at: usize,
}

/// Longer ones first.
const SIGNS: [&str; 25] = [
    "<=", ">=", "<>", "!=", "==", "||", "::", "//", "**", "(", ")", "[", "]", ",", ".", "+", "-", "*", "/", "%", "^",
    "<", ">", "=", ";",
];

/// The tokens of `text`, [`Token::End`] last.
///
/// # Errors
/// A quote without end, and characters that begin nothing.
pub(super) fn tokens(text: &str) -> Result<Vec<Lexeme>, Wrong> {
    let mut reader = Reader { chars: text.chars().collect(), next: 0 };
    let mut found = Vec::new();
    loop {
        reader.skip_space();
        let at = reader.next + 1;
        let token = reader.token(at)?;
        let is_end = token == Token::End;
        found.push(Lexeme { token, at });
        if is_end {
            return Ok(found);
        }
    }
}

struct Reader {
    chars: Vec<char>,
    next: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.next + ahead).copied()
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let start = self.next;
        while self.peek(0).is_some_and(&is_part) {
            self.next += 1;
        }
        self.chars[start..self.next].iter().collect()
    }

    fn skip_space(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if (self.peek(0), self.peek(1)) != (Some('-'), Some('-')) {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self, at: usize) -> Result<Token, Wrong> {
        let Some(first) = self.peek(0) else { return Ok(Token::End) };
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        match first {
            '\'' => self.quoted(at, '\'', "text").map(Token::Text),
            '"' => self.quoted(at, '"', "name").map(Token::Name),
            _ if is_digit(Some(first)) || first == '.' && is_digit(self.peek(1)) => self.number(at),
            _ if first.is_alphabetic() || first == '_' => {
                Ok(Token::Word(self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '$')))
            }
            _ => {
                let begins = |sign: &&&str| sign.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c));
                let sign = SIGNS.iter().find(begins);
                let sign = sign.ok_or_else(|| Wrong::at(at, format!("`{first}` is no sign of an expression")))?;
                self.next += sign.len();
                Ok(Token::Sign(sign))
            }
        }
    }

    /// A doubled quote stands for itself.
    fn quoted(&mut self, at: usize, quote: char, what: &str) -> Result<String, Wrong> {
        let mut text = String::new();
        self.next += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => return Err(Wrong::at(at, format!("the {what} that begins here has no end"))),
                (Some(c), Some(d)) if c == quote && d == quote => {
                    text.push(quote);
                    self.next += 2;
                }
                (Some(c), _) if c == quote => {
                    self.next += 1;
                    return Ok(text);
                }
                (Some(c), _) => {
                    text.push(c);
                    self.next += 1;
                }
            }
        }
    }

    fn number(&mut self, at: usize) -> Result<Token, Wrong> {
        let mut text = self.take_while(|c| c.is_ascii_digit());
        if self.peek(0) == Some('.') {
            self.next += 1;
            text.push('.');
            text.push_str(&self.take_while(|c| c.is_ascii_digit()));
        }
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        if matches!(self.peek(0), Some('e' | 'E')) && self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
            text.extend(&self.chars[self.next..=self.next + sign]);
            self.next += 1 + sign;
            text.push_str(&self.take_while(|c| c.is_ascii_digit()));
        }
        match self.peek(0) {
            Some(c) if c.is_alphanumeric() || c == '_' => Err(Wrong::at(at, format!("`{text}{c}…` is no number"))),
            _ => Ok(Token::Number(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_names_numbers_and_signs() {
        let found = tokens("a<='it''s'-- end\n\"b \"\"c\"/1.5e-3 .5").unwrap();
        let shown: Vec<String> = found.iter().map(|lexeme| format!("{}@{}", lexeme.token.shown(), lexeme.at)).collect();
        assert_eq!(
            shown,
            ["`a`@1", "`<=`@2", "`'it's'`@4", "`\"b \"c\"`@18", "`/`@25", "`1.5e-3`@26", "`.5`@33", "the end@35"]
        );
        for (text, expected) in [
            ("a = 'b", "the text that begins here has no end, at character 5 of the expression"),
            ("`a`", "``` is no sign of an expression, at character 1 of the expression"),
            ("1x", "`1x…` is no number, at character 1 of the expression"),
        ] {
            assert_eq!(tokens(text).unwrap_err().to_string(), expected);
        }
    }
}

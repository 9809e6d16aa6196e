//! PTX text to tokens.
use super::ParseError;

/// One token. Words keep their dots: `ld.global.nc.L1::no_allocate.u32` is one word.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Opcode, directive, register, symbol or label name.
    Word(String),
    /// Integer literal (sign is a separate token).
    Int(u64),
    /// `0f........`: bits of an f32.
    F32(u32),
    /// `0d................` or a decimal float: bits of an f64.
    F64(u64),
    /// Text between double quotes.
    Text(String),
    /// One punctuation character.
    Punct(char),
}

/// A token and the line it stands on, from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned {
    /// The token.
    pub token: Token,
    /// Its line.
    pub line: u32,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl Cursor<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn bump(&mut self) {
        if self.peek(0) == b'\n' {
            self.line += 1;
        }
        self.at += 1;
    }

    fn err(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            line: self.line,
            message: message.into(),
        }
    }

    fn blank(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    while (self.peek(0), self.peek(1)) != (b'*', b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(self.err("comment without end"));
                        }
                        self.bump();
                    }
                    self.at += 2;
                }
                (c, _) if c.is_ascii_whitespace() => self.bump(),
                _ => return Ok(()),
            }
        }
    }

    fn take(&mut self, keep: impl Fn(u8) -> bool) -> String {
        let from = self.at;
        while self.at < self.bytes.len() && keep(self.peek(0)) {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[from..self.at]).into_owned()
    }

    fn word(&mut self) -> String {
        let from = self.at;
        loop {
            let c = self.peek(0);
            if c == b':' && self.peek(1) == b':' && self.peek(2).is_ascii_alphanumeric() {
                self.at += 2;
            } else if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.') {
                self.at += 1;
            } else {
                return String::from_utf8_lossy(&self.bytes[from..self.at]).into_owned();
            }
        }
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let text = self.take(|c| c.is_ascii_alphanumeric() || c == b'.');
        let bad = |_| self.err(format!("bad number '{text}'"));
        let lower = text.to_ascii_lowercase();
        if let Some(hex) = lower.strip_prefix("0f").filter(|h| h.len() == 8) {
            return Ok(Token::F32(u32::from_str_radix(hex, 16).map_err(bad)?));
        }
        if let Some(hex) = lower.strip_prefix("0d").filter(|h| h.len() == 16) {
            return Ok(Token::F64(u64::from_str_radix(hex, 16).map_err(bad)?));
        }
        if lower.contains('.') {
            let v: f64 = lower
                .parse()
                .map_err(|_| self.err(format!("bad number '{text}'")))?;
            return Ok(Token::F64(v.to_bits()));
        }
        let digits = lower.strip_suffix('u').unwrap_or(&lower);
        let value = if let Some(hex) = digits.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if let Some(bin) = digits.strip_prefix("0b") {
            u64::from_str_radix(bin, 2)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(digits, 8)
        } else {
            digits.parse()
        };
        Ok(Token::Int(value.map_err(bad)?))
    }
}

/// Splits the whole text.
///
/// # Errors
/// A character or number that PTX does not have.
pub fn tokenize(text: &str) -> Result<Vec<Spanned>, ParseError> {
    let mut c = Cursor {
        bytes: text.as_bytes(),
        at: 0,
        line: 1,
    };
    let mut out = Vec::new();
    loop {
        c.blank()?;
        if c.at >= c.bytes.len() || c.peek(0) == 0 {
            return Ok(out);
        }
        let line = c.line;
        let token = match c.peek(0) {
            b'"' => {
                c.at += 1;
                let text = c.take(|c| c != b'"' && c != b'\n');
                c.at += 1;
                Token::Text(text)
            }
            b'0'..=b'9' => c.number()?,
            b'_' | b'$' | b'%' | b'.' | b'a'..=b'z' | b'A'..=b'Z' => Token::Word(c.word()),
            p if b"{}[](),;:@!+-=<>|*/".contains(&p) => {
                c.at += 1;
                Token::Punct(p as char)
            }
            other => return Err(c.err(format!("unexpected character '{}'", other as char))),
        };
        out.push(Spanned { token, line });
    }
}

//! First level of the reader: text to statements, by punctuation alone.

use crate::ReadError;

/// A statement of a function body.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    Label(&'a str),
    Open,
    Close,
    /// A directive such as `.reg .b32 %r<4>`, without its semicolon.
    Directive(&'a str),
    Instruction(Instruction<'a>),
}

/// An instruction: `@!%p1 add.s32 %r1, %r2, 3;`
#[derive(Debug, PartialEq, Eq)]
pub struct Instruction<'a> {
    /// Predicate and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<&'a str>,
    /// All of it, guard included.
    pub text: &'a str,
}

/// The text with comments blanked out; lines stay where they are.
pub fn blank_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    let mut quoted = false;
    while i < bytes.len() {
        let pair = (bytes[i], bytes.get(i + 1).copied());
        match pair {
            (b'"', _) => quoted = !quoted,
            (b'\n', _) => quoted = false,
            (b'/', Some(b'/')) if !quoted => {
                while i < bytes.len() && bytes[i] != b'\n' {
                    out[i] = b' ';
                    i += 1;
                }
                continue;
            }
            (b'/', Some(b'*')) if !quoted => {
                let end = text[i + 2..].find("*/").map_or(bytes.len(), |at| i + 2 + at + 2);
                out[i..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                i = end;
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    // Comments are blanked byte by byte and begin and end at ASCII characters, so the text stays valid.
    String::from_utf8(out).unwrap_or_default()
}

/// A position in the text that knows its line.
#[derive(Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Cursor { text, at: 0, line: 1 }
    }

    pub fn line(&self) -> u32 {
        self.line
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next character that is no white space.
    pub fn peek(&mut self) -> Option<u8> {
        let skipped = self.rest().len() - self.rest().trim_start().len();
        self.advance(skipped);
        self.rest().bytes().next()
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.line += taken.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.at += bytes;
        taken
    }

    /// Takes the next character if it is `expected`.
    pub fn eat(&mut self, expected: u8) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.advance(1);
        }
        found
    }

    /// The next word: up to white space or one of `( ) { } [ ] ; , =`.
    pub fn word(&mut self) -> &'a str {
        self.peek();
        let stop = |c: char| c.is_whitespace() || "(){}[];,=".contains(c);
        let length = self.rest().find(stop).unwrap_or(self.rest().len());
        self.advance(length)
    }

    /// Everything to the end of the line.
    pub fn line_end(&mut self) -> &'a str {
        let length = self.rest().find('\n').unwrap_or(self.rest().len());
        self.advance(length).trim()
    }

    /// Everything up to one of `stops`, which is not taken.
    pub fn until(&mut self, stops: &[char]) -> Result<&'a str, ReadError> {
        self.peek();
        match self.rest().find(stops) {
            Some(length) => Ok(self.advance(length).trim()),
            None => {
                Err(ReadError::new(self.line, format!("the text ends where one of {stops:?} is expected")))
            }
        }
    }

    /// The inside of a bracketed group that starts here; groups of the same kind nest.
    pub fn group(&mut self, open: u8, close: u8) -> Result<&'a str, ReadError> {
        let line = self.line;
        if !self.eat(open) {
            let found =
                self.peek().map_or("the end of the text".into(), |byte| format!("`{}`", byte as char));
            return Err(ReadError::new(self.line, format!("expected `{}`, found {found}", open as char)));
        }
        let mut depth = 1;
        for (i, byte) in self.rest().bytes().enumerate() {
            depth += i32::from(byte == open) - i32::from(byte == close);
            if depth == 0 {
                let inside = self.advance(i);
                self.advance(1);
                return Ok(inside);
            }
        }
        Err(ReadError::new(line, format!("`{}` is never closed", open as char)))
    }

    /// The next statement of a function body; none at the end of the text.
    pub fn item(&mut self) -> Result<Option<(Item<'a>, u32)>, ReadError> {
        let Some(first) = self.peek() else { return Ok(None) };
        let line = self.line;
        let item = match first {
            b'{' => {
                self.advance(1);
                Item::Open
            }
            b'}' => {
                self.advance(1);
                Item::Close
            }
            b';' => {
                self.advance(1);
                return self.item();
            }
            b'.' if [".loc", ".file"].contains(&self.clone().word()) => {
                self.line_end();
                return self.item();
            }
            _ => {
                if let Some(label) = self.label() {
                    return Ok(Some((Item::Label(label), line)));
                }
                let text = self.until(&[';'])?;
                self.advance(1);
                if text.starts_with('.') {
                    Item::Directive(text)
                } else {
                    Item::Instruction(instruction(text).map_err(|message| ReadError::new(line, message))?)
                }
            }
        };
        Ok(Some((item, line)))
    }

    /// An identifier followed by a single colon.
    fn label(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_$%.".contains(c)))?;
        let after = rest[length..].trim_start();
        if length == 0 || !after.starts_with(':') || after.starts_with("::") {
            return None;
        }
        let label = self.advance(length);
        self.eat(b':');
        Some(label)
    }
}

fn instruction(text: &str) -> Result<Instruction<'_>, String> {
    let (guard, body) = match text.strip_prefix('@') {
        Some(rest) => {
            let rest = rest.trim_start();
            let (negated, rest) =
                rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest.trim_start()));
            let (name, body) = rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| format!("expected an instruction after the guard, found `{text}`"))?;
            (Some((name, negated)), body.trim_start())
        }
        None => (None, text),
    };
    let (opcode, operands) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    Ok(Instruction { guard, opcode, operands: split_operands(operands)?, text })
}

/// Splits at commas that no bracket encloses.
pub fn split_operands(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, 0);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
        if depth < 0 {
            return Err(format!("a bracket is closed that was not opened in `{text}`"));
        }
    }
    if depth != 0 {
        return Err(format!("a bracket is not closed in `{text}`"));
    }
    let last = text[start..].trim();
    if !last.is_empty() || !parts.is_empty() {
        parts.push(last);
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("an operand is missing in `{text}`"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<(Item<'_>, u32)> {
        let mut cursor = Cursor::new(text);
        let mut all = Vec::new();
        while let Some(item) = cursor.item().unwrap() {
            all.push(item);
        }
        all
    }

    #[test]
    fn comments_leave_the_lines_where_they_were() {
        let text = blank_comments("a // b ; c\n/* x\n y */ d \"//e\"");
        assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), ["a", "", "d \"//e\""]);
    }

    #[test]
    fn a_double_colon_is_no_label() {
        let found = items("$L_1: ld.global.L1::no_allocate.b32 %r1, [%rd1+-4];\n}");
        assert_eq!(found[0], (Item::Label("$L_1"), 1));
        let Item::Instruction(load) = &found[1].0 else { panic!("{found:?}") };
        assert_eq!(load.opcode, "ld.global.L1::no_allocate.b32");
        assert_eq!(load.operands, ["%r1", "[%rd1+-4]"]);
        assert_eq!(found[2], (Item::Close, 2));
    }

    #[test]
    fn guards_and_vectors() {
        let found = items("@!%p1 st.shared.v2.b32 [%r1], {%r2, %r3};");
        let Item::Instruction(store) = &found[0].0 else { panic!("{found:?}") };
        assert_eq!(store.guard, Some(("%p1", true)));
        assert_eq!(store.operands, ["[%r1]", "{%r2, %r3}"]);
    }

    #[test]
    fn broken_punctuation_is_an_error_with_its_line() {
        let mut cursor = Cursor::new("\nadd.s32 %r1, %r2");
        assert_eq!(cursor.item().unwrap_err().line, 2);
        assert!(split_operands("a, (b").is_err());
        assert!(split_operands("a,, b").is_err());
        assert!(split_operands("a), (b").is_err());
    }
}

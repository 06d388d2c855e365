//! Reading PTX as far as rules, tables and comparisons need: functions, and the statements in them with their lines.

/// A file of PTX.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// `.version` and `.target`, as written.
    pub version: String,
    pub target: String,
    /// Functions with a body, in the file's order.
    pub functions: Vec<Function>,
    /// What stands outside of functions: variables and declarations.
    pub globals: Vec<Statement>,
}

/// A kernel or a function.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: String,
    pub is_entry: bool,
    /// Everything before the body.
    pub header: Statement,
    pub body: Vec<Statement>,
    /// The line of the closing brace.
    pub last_line: usize,
}

/// A label, directive or instruction, without its semicolon and on one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Statement {
    /// Where it begins, counted from 1.
    pub line: usize,
    pub text: String,
}

impl Statement {
    pub fn is_directive(&self) -> bool {
        self.text.starts_with('.')
    }

    /// The label, if this is one.
    pub fn label(&self) -> Option<&str> {
        self.text.strip_suffix(':')
    }

    /// The guarding predicate: `%p1` or `!%p1`.
    pub fn predicate(&self) -> Option<&str> {
        self.text.strip_prefix('@')?.split(' ').next()
    }

    /// The statement without its predicate.
    fn unguarded(&self) -> &str {
        match self.predicate() {
            Some(predicate) => self.text[1 + predicate.len()..].trim_start(),
            None => &self.text,
        }
    }

    /// The instruction's name with its modifiers: `ld.global.b32`. Empty for labels and directives.
    pub fn opcode(&self) -> &str {
        if self.is_directive() || self.label().is_some() {
            return "";
        }
        self.unguarded().split(' ').next().unwrap_or_default()
    }

    /// The parts of the opcode, with `shared::cta` as `shared`.
    pub fn modifiers(&self) -> impl Iterator<Item = &str> {
        self.opcode().split('.').map(|part| part.split_once("::").map_or(part, |(space, _)| space))
    }

    /// The operands, split at commas outside of brackets.
    pub fn operands(&self) -> Vec<&str> {
        let text = self.unguarded();
        let Some((_, operands)) = text.split_once(' ') else { return Vec::new() };
        let mut depth = 0;
        let at_top = |c: char| {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        };
        operands.split(at_top).map(str::trim).collect()
    }
}

impl Function {
    /// Its text within `ptx`, with labels as they would be if it stood alone: LLVM numbers them by the function's place
    /// in the module.
    pub fn text(&self, ptx: &str) -> Vec<String> {
        let lines = ptx.lines().skip(self.header.line - 1).take(self.last_line + 1 - self.header.line);
        lines
            .map(|line| line.split("$L__BB").map(after_function).collect::<Vec<_>>().join("$L__BB"))
            .collect()
    }

    pub fn is_noreturn(&self) -> bool {
        self.header.text.contains(".noreturn")
    }
}

/// What follows the number of the function in `12_34`.
fn after_function(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
    if end > 0 && text[end..].starts_with('_') { &text[end..] } else { text }
}

impl Module {
    pub fn parse(text: &str) -> Self {
        let mut module = Self::default();
        let mut reader = Reader::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default().trim();
            if reader.pending.text.is_empty() && reader.directive(line, &mut module) {
                continue;
            }
            reader.line(index + 1, line, &mut module);
        }
        module
    }

    pub fn entry(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.is_entry && function.name == name)
    }
}

/// The state between lines.
#[derive(Default)]
struct Reader {
    pending: Statement,
    /// Brackets open within the pending statement.
    depth: usize,
    /// Scopes open within the current function, its body included.
    scopes: usize,
    current: Option<Function>,
}

impl Reader {
    /// Takes the directives that end with their line.
    fn directive(&mut self, line: &str, module: &mut Module) -> bool {
        let (name, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        match name {
            ".version" => module.version = value.trim().to_string(),
            ".target" => module.target = value.trim().to_string(),
            ".address_size" | ".loc" | ".file" => {}
            _ => return false,
        }
        true
    }

    fn line(&mut self, number: usize, line: &str, module: &mut Module) {
        for c in line.chars().map(|c| if c.is_whitespace() { ' ' } else { c }) {
            let fresh = self.pending.text.is_empty();
            match c {
                ' ' if fresh => continue,
                '{' if self.opens_function() => self.open(),
                '{' if fresh => self.scopes += 1,
                '}' if fresh => self.close(number, module),
                ';' if self.depth == 0 => self.finish(module),
                _ => self.push(number, c),
            }
            if self.ends_label() {
                self.finish(module);
            }
        }
        // A space stands for the line's end within a statement.
        if !self.pending.text.is_empty() && !self.pending.text.ends_with(' ') {
            self.pending.text.push(' ');
        }
    }

    fn push(&mut self, number: usize, c: char) {
        let text = &mut self.pending.text;
        if text.is_empty() {
            self.pending.line = number;
        }
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            ' ' if text.ends_with(' ') => return,
            _ => {}
        }
        text.push(c);
    }

    fn opens_function(&self) -> bool {
        let text = &self.pending.text;
        let heads = |word: &str| text.split(' ').any(|part| part == word);
        self.depth == 0
            && self.current.is_none()
            && text.starts_with('.')
            && (heads(".entry") || heads(".func"))
    }

    /// A label ends at its colon; `::` belongs to a name, and opcodes hold a space before any colon.
    fn ends_label(&self) -> bool {
        let name = self.pending.text.strip_suffix(':').unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_$%".contains(c))
    }

    fn open(&mut self) {
        let mut header = std::mem::take(&mut self.pending);
        header.text.truncate(header.text.trim_end().len());
        let mut words = header.text.split([' ', '(']);
        let is_entry = words.by_ref().find(|word| [".entry", ".func"].contains(word)) == Some(".entry");
        // A function's result stands in brackets before its name.
        let after = header
            .text
            .split(if is_entry { ".entry" } else { ".func" })
            .nth(1)
            .unwrap_or_default()
            .trim_start();
        let after =
            if after.starts_with('(') { after.split_once(')').map_or("", |(_, rest)| rest) } else { after };
        let name = after.trim_start().split([' ', '(']).next().unwrap_or_default().to_string();
        self.current = Some(Function { name, is_entry, header, body: Vec::new(), last_line: 0 });
        self.scopes = 1;
    }

    fn close(&mut self, number: usize, module: &mut Module) {
        self.scopes = self.scopes.saturating_sub(1);
        if self.scopes == 0
            && let Some(mut function) = self.current.take()
        {
            function.last_line = number;
            module.functions.push(function);
        }
    }

    fn finish(&mut self, module: &mut Module) {
        let mut statement = std::mem::take(&mut self.pending);
        statement.text.truncate(statement.text.trim_end().len());
        if statement.text.is_empty() {
            return;
        }
        match &mut self.current {
            Some(function) => function.body.push(statement),
            None => module.globals.push(statement),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
.version 7.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 smem[];
.func  (.param .b32 out) half(.param .b32 in)
{
\tret;
}
\t// .globl one
.visible .entry one(
\t.param .u64 .ptr .align 1 one_param_0
)
.maxntid 128, 1, 1
.minnctapersm 2 // -- comment
{
\t.reg .pred \t%p<2>;
$L__BB0_1:                              // %bb2
\t@!%p1 bra \t$L__BB0_1;
\t{ .reg .b32 t; cvt.u32.u64 t, %rd1; st.shared::cta.v2.b32 [t], {%r1,
\t %r2}; }
\tret;
}
";

    #[test]
    fn functions_statements_and_lines() {
        let module = Module::parse(TEXT);
        assert_eq!((module.version.as_str(), module.target.as_str()), ("7.0", "sm_80"));
        assert_eq!(module.globals[0].text, ".extern .shared .align 16 .b8 smem[]");
        let names: Vec<_> = module.functions.iter().map(|f| (f.name.as_str(), f.is_entry)).collect();
        assert_eq!(names, [("half", false), ("one", true)]);
        let one = module.entry("one").unwrap();
        assert!(one.header.text.ends_with(".maxntid 128, 1, 1 .minnctapersm 2"));
        assert_eq!((one.header.line, one.last_line), (10, 22));
        let lines: Vec<_> = one.body.iter().map(|s| (s.line, s.opcode())).collect();
        assert_eq!(
            lines,
            [
                (16, ""),
                (17, ""),
                (18, "bra"),
                (19, ""),
                (19, "cvt.u32.u64"),
                (19, "st.shared::cta.v2.b32"),
                (21, "ret")
            ]
        );
    }

    #[test]
    fn the_text_of_a_function_knows_no_numbers_of_others() {
        let moved = TEXT.replace("$L__BB0_", "$L__BB12_");
        let text = |ptx: &str| Module::parse(ptx).entry("one").unwrap().text(ptx);
        assert_eq!(text(TEXT), text(&moved));
        assert_eq!((text(TEXT).len(), text(TEXT)[8].trim()), (13, "@!%p1 bra \t$L__BB_1;"));
    }

    #[test]
    fn predicates_modifiers_and_operands() {
        let module = Module::parse(TEXT);
        let body = &module.functions[1].body;
        assert_eq!(body[1].label(), Some("$L__BB0_1"));
        assert_eq!(body[2].predicate(), Some("!%p1"));
        assert_eq!(body[2].operands(), ["$L__BB0_1"]);
        assert_eq!(body[5].modifiers().collect::<Vec<_>>(), ["st", "shared", "v2", "b32"]);
        assert_eq!(body[5].operands(), ["[t]", "{%r1, %r2}"]);
    }
}

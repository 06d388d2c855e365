//! The top level of a module: directives, variables, functions, and the headers of kernels.

use std::collections::HashMap;

use super::Global;
use super::operand::immediate;
use super::scan::{Cursor, split_operands};
use super::types::Ty;
use crate::ReadError;
use crate::ir::Param;

/// What the top level of a module holds.
pub struct Scanned<'a> {
    pub entries: Vec<Entry<'a>>,
    pub globals: Vec<GlobalVariable<'a>>,
    /// Shared variables of the module level; those of size zero are the dynamic part.
    pub shared: HashMap<&'a str, Variable<'a>>,
    /// Functions, and whether they never return.
    pub functions: HashMap<&'a str, bool>,
    pub target: u32,
}

/// A kernel whose body has not been read yet.
pub struct Entry<'a> {
    pub name: &'a str,
    pub line: u32,
    pub params: Vec<Param>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    /// Stands at the opening brace.
    pub body: Cursor<'a>,
}

/// A declaration such as `.align 16 .b8 name[40] = {1, 2}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    pub name: &'a str,
    pub ty: Ty,
    pub align: u32,
    /// Elements; zero for the array of unknown size that stands for dynamic shared memory.
    pub count: u32,
    pub init: Option<&'a str>,
}

impl Variable<'_> {
    pub fn bytes(&self) -> u32 {
        self.ty.bytes() * self.count
    }
}

/// A variable in global or constant memory.
pub struct GlobalVariable<'a> {
    pub variable: Variable<'a>,
    read_only: bool,
    line: u32,
}

impl GlobalVariable<'_> {
    /// The bytes it starts with. Without an initialiser they are zero, as the driver makes them.
    pub fn initialise(&self, addresses: &HashMap<&str, u64>) -> Result<Global, ReadError> {
        let Variable { name, ty, init, .. } = &self.variable;
        let mut bytes = Vec::new();
        for value in
            split_operands(init.unwrap_or("")).map_err(|message| ReadError::new(self.line, message))?
        {
            let value = initial_value(value, *ty, addresses).ok_or_else(|| {
                ReadError::new(self.line, format!("`{name}`: initial value `{value}` is not supported"))
            })?;
            bytes.extend_from_slice(&value.to_le_bytes()[..ty.bytes() as usize]);
        }
        if bytes.len() > self.variable.bytes() as usize {
            return Err(ReadError::new(self.line, format!("`{name}` has more initial values than elements")));
        }
        bytes.resize(self.variable.bytes() as usize, 0);
        Ok(Global { name: (*name).to_owned(), bytes, read_only: self.read_only })
    }
}

/// A number, the address of a variable, or one byte of an address: `0xFF00(name)`.
fn initial_value(text: &str, ty: Ty, addresses: &HashMap<&str, u64>) -> Option<u64> {
    if let Some(value) = immediate(text, ty) {
        return Some(value);
    }
    let (mask, symbol) = match text.split_once('(') {
        Some(("generic", rest)) => (u64::MAX, rest.strip_suffix(')')?),
        Some((mask, rest)) => (immediate(mask.trim(), Ty::U(64))?, rest.strip_suffix(')')?),
        None => (u64::MAX, text),
    };
    let symbol = symbol.strip_prefix("generic(").map_or(symbol, |rest| rest.trim_end_matches(')'));
    let (name, offset) = symbol.split_once('+').unwrap_or((symbol, "0"));
    let address = addresses.get(name.trim())?.wrapping_add(immediate(offset.trim(), Ty::U(64))?);
    (mask != 0).then(|| (address & mask) >> mask.trailing_zeros())
}

/// Reads the top level.
pub fn scan(text: &str) -> Result<Scanned<'_>, ReadError> {
    let mut scanned = Scanned {
        entries: Vec::new(),
        globals: Vec::new(),
        shared: HashMap::new(),
        functions: HashMap::new(),
        target: 0,
    };
    let mut cursor = Cursor::new(text);
    while cursor.peek().is_some() {
        let line = cursor.line();
        let fail = |message: String| ReadError::new(line, message);
        match cursor.word() {
            ".version" | ".file" | ".loc" => drop(cursor.line_end()),
            ".address_size" => {
                let size = cursor.line_end();
                if size != "64" {
                    return Err(fail(format!("expected .address_size 64, found {size}")));
                }
            }
            ".target" => {
                let name = cursor.line_end().split(',').next().unwrap_or_default().trim();
                let number = name.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']));
                scanned.target = number
                    .and_then(|number| number.parse().ok())
                    .ok_or_else(|| fail(format!("expected .target sm_NN, found `{name}`")))?;
            }
            ".section" => {
                cursor.until(&['{'])?;
                cursor.group(b'{', b'}')?;
            }
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".pragma" => {
                cursor.until(&[';'])?;
                cursor.eat(b';');
            }
            ".entry" => scanned.entries.push(entry(&mut cursor, line)?),
            ".func" => function(&mut cursor, &mut scanned.functions)?,
            space @ (".global" | ".const" | ".shared") => {
                let declaration = cursor.until(&[';'])?;
                cursor.eat(b';');
                let variable = variable(declaration).map_err(fail)?;
                if space == ".shared" {
                    scanned.shared.insert(variable.name, variable);
                } else {
                    scanned.globals.push(GlobalVariable { variable, read_only: space == ".const", line });
                }
            }
            "" if cursor.eat(b';') => {}
            word => {
                let word = if word.is_empty() { cursor.line_end() } else { word };
                return Err(fail(format!("`{word}` is not expected at the top level of a module")));
            }
        }
    }
    Ok(scanned)
}

fn entry<'a>(cursor: &mut Cursor<'a>, line: u32) -> Result<Entry<'a>, ReadError> {
    let fail = |message: String| ReadError::new(line, message);
    let name = cursor.word();
    let list = if cursor.peek() == Some(b'(') { cursor.group(b'(', b')')? } else { "" };
    let params = parameters(list).map_err(fail)?;
    let directives = cursor.until(&['{', ';'])?;
    let mut entry =
        Entry { name, line, params, max_threads: None, required_threads: None, body: cursor.clone() };
    let mut words =
        directives.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()).peekable();
    while let Some(directive) = words.next() {
        let mut numbers = Vec::new();
        while let Some(word) = words.next_if(|word| !word.starts_with('.')) {
            let number = word
                .parse::<u32>()
                .map_err(|_| fail(format!("`{directive}`: expected a number, found `{word}`")))?;
            numbers.push(number);
        }
        let extent = || {
            let mut extent = [1; 3];
            extent.iter_mut().zip(&numbers).for_each(|(to, &from)| *to = from);
            (!numbers.is_empty() && numbers.len() <= 3).then_some(extent)
        };
        let wrong = || fail(format!("`{directive}` takes one to three numbers, found {}", numbers.len()));
        match directive {
            ".maxntid" => entry.max_threads = Some(extent().ok_or_else(wrong)?),
            ".reqntid" => entry.required_threads = Some(extent().ok_or_else(wrong)?),
            // Both bound the register allocation of ptxas, which has no counterpart here.
            ".minnctapersm" | ".maxnreg" if numbers.len() == 1 => {}
            _ => return Err(fail(format!("`{directive}` of kernel `{name}` is not supported"))),
        }
    }
    if cursor.peek() != Some(b'{') {
        return Err(fail(format!("kernel `{name}` has no body")));
    }
    cursor.group(b'{', b'}')?;
    Ok(entry)
}

/// `.param .u64 .ptr .global .align 1 name` or `.param .align 8 .b8 name[24]`, separated by commas.
fn parameters(list: &str) -> Result<Vec<Param>, String> {
    let mut params = Vec::new();
    let mut end = 0u32;
    for declaration in split_operands(list)? {
        let rest = declaration
            .strip_prefix(".param")
            .ok_or_else(|| format!("expected a parameter, found `{declaration}`"))?;
        // What a pointer points to says nothing about the parameter.
        let (own, pointee) =
            rest.split_once(".ptr").map_or((rest, None), |(own, pointee)| (own, Some(pointee)));
        let joined;
        let own = match pointee {
            Some(pointee) => {
                let name = pointee.split_whitespace().next_back().unwrap_or_default();
                joined = format!("{own} {name}");
                variable(&joined)
            }
            None => variable(own),
        }?;
        end = end.next_multiple_of(own.align);
        params.push(Param { name: own.name.to_owned(), offset: end, bytes: own.bytes(), align: own.align });
        end = end.checked_add(own.bytes()).ok_or("the parameters are larger than 4 GiB")?;
    }
    Ok(params)
}

fn function<'a>(cursor: &mut Cursor<'a>, functions: &mut HashMap<&'a str, bool>) -> Result<(), ReadError> {
    if cursor.peek() == Some(b'(') {
        cursor.group(b'(', b')')?;
    }
    let name = cursor.word();
    if cursor.peek() == Some(b'(') {
        cursor.group(b'(', b')')?;
    }
    let mut returns = !cursor.until(&['{', ';'])?.contains(".noreturn");
    if cursor.peek() == Some(b'{') {
        let body = cursor.group(b'{', b'}')?;
        // A definition that has lost the mark does not return either when it never says so.
        returns &= body
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
            .any(|word| word == "ret");
    } else {
        cursor.eat(b';');
    }
    let never_returns = functions.entry(name).or_default();
    *never_returns |= !returns;
    Ok(())
}

/// Parses a declaration after the word that names its space.
pub fn variable(text: &str) -> Result<Variable<'_>, String> {
    let (declaration, init) =
        text.split_once('=').map_or((text, None), |(left, right)| (left, Some(right.trim())));
    let init = init
        .map(|init| init.strip_prefix('{').and_then(|init| init.strip_suffix('}')).unwrap_or(init).trim());
    let mut words = declaration.split_whitespace();
    let (mut ty, mut align, mut name) = (None, None, None);
    while let Some(word) = words.next() {
        match word.strip_prefix('.') {
            Some("align") => align = words.next().and_then(|word| word.parse::<u32>().ok()),
            Some(word) if ty.is_none() && Ty::parse(word).is_some() => ty = Ty::parse(word),
            None if name.is_none() => name = Some(word),
            _ => return Err(format!("`{word}` is not supported in the declaration `{}`", text.trim())),
        }
    }
    let (Some(ty), Some(name)) = (ty, name) else {
        return Err(format!("expected a type and a name in the declaration `{}`", text.trim()));
    };
    let (name, count) = match name.split_once('[') {
        None => (name, 1),
        Some((name, "]")) => (name, 0),
        Some((name, count)) => {
            let count = count.strip_suffix(']').and_then(|count| count.parse::<u32>().ok());
            let fits = count.filter(|&count| count.checked_mul(ty.bytes()).is_some());
            (name, fits.ok_or_else(|| format!("the array size of `{}` is not supported", text.trim()))?)
        }
    };
    let align = align.unwrap_or(ty.bytes());
    if !align.is_power_of_two() || align > 1 << 16 {
        return Err(format!("the alignment of `{name}` is {align}, expected a power of two"));
    }
    Ok(Variable { name, ty, align, count, init })
}

//! One instruction form and its kernel.

use std::fmt::Write;

use crate::numerics::mma::MmaType;
use crate::numerics::{Class, Format};

/// Name of the kernel in every generated module.
pub const KERNEL_NAME: &str = "conformance";

/// Threads of a CTA: one warp, so that warp-wide forms see the same lanes as the others.
pub const LANES_PER_CTA: u32 = 32;

/// Operand and result records are multiples of this, so that vector accesses of 16 bytes are aligned.
const RECORD_ALIGNMENT: u32 = 16;

/// What fills an operand register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// Any 16 bits.
    Bits16,
    /// The case's number as 16 bits: with 65,536 cases, all of them.
    CaseNumber,
    /// Any 32 bits.
    Bits32,
    /// Any 64 bits.
    Bits64,
    /// A shift amount, length, lane or size: 0 up to but not including the number.
    Below(u32),
    /// The same, but one value for the whole of every second warp.
    Group(u32),
    /// f32 over the whole range.
    F32,
    /// f32 of at most this magnitude.
    F32Within(f32),
    /// One f16 or bf16.
    Half(Format),
    /// A pair of them.
    HalfX2(Format),
    /// A pair of matrix elements; the spread of exponents depends on the warp.
    Matrix(MmaType),
    /// An f32 accumulator to go with them.
    Accumulator(MmaType),
}

impl Operand {
    /// Bytes of its slot in the operand record.
    pub fn bytes(self) -> u32 {
        if self == Self::Bits64 { 8 } else { 4 }
    }

    fn register_type(self) -> &'static str {
        match self {
            Self::Bits64 => "b64",
            Self::Bits16 | Self::CaseNumber | Self::Half(_) => "b16",
            _ => "b32",
        }
    }
}

/// What a result register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// 16 bits, stored zero-extended.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
    /// f32: compared by the form's class.
    F32,
    /// A 16-bit float, stored zero-extended: compared by the form's class.
    Half(Format),
    /// Two 16-bit floats: compared by the form's class.
    HalfX2(Format),
}

impl Output {
    /// 32-bit words in the result record.
    pub fn words(self) -> u32 {
        if self == Self::Bits64 { 2 } else { 1 }
    }

    fn register_type(self) -> &'static str {
        match self {
            Self::Bits64 => "b64",
            Self::Bits16 | Self::Half(_) => "b16",
            _ => "b32",
        }
    }
}

/// An instruction form: its operands and results, its kernel's body and what a replay demands of it.
#[derive(Clone, Debug)]
pub struct Form {
    /// The instruction as written, with a remark where one instruction has several forms; unique in the table.
    pub id: String,
    /// How closely floating-point results must agree; all others must be equal.
    pub class: Class,
    /// Operand registers `%a0`, `%a1`, …
    pub operands: Vec<Operand>,
    /// Result registers `%d0`, `%d1`, …
    pub outputs: Vec<Output>,
    /// Threads that run; a multiple of [`LANES_PER_CTA`].
    pub cases: u32,
    body: String,
    stores_itself: bool,
}

impl Form {
    /// A form whose body is the one instruction `id` with all results and operands in order.
    pub(super) fn new(id: impl Into<String>, operands: &[Operand], outputs: &[Output]) -> Self {
        let id = id.into();
        let registers: Vec<String> = (0..outputs.len())
            .map(|i| format!("%d{i}"))
            .chain((0..operands.len()).map(|i| format!("%a{i}")))
            .collect();
        let body = format!("{id} {};", registers.join(", "));
        let (operands, outputs) = (operands.to_vec(), outputs.to_vec());
        Self { id, class: Class::Exact, operands, outputs, cases: 2048, body, stores_itself: false }
    }

    /// Another body. It may use the registers named in [`Form::ptx`].
    pub(super) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Another class than exact. All results of such a form are kept, so it has fewer cases.
    pub(super) fn class(mut self, class: Class) -> Self {
        self.class = class;
        if class != Class::Exact {
            self.cases = 1024;
        }
        self
    }

    pub(super) fn cases(mut self, cases: u32) -> Self {
        self.cases = cases;
        self
    }

    /// The body stores results at `%out` by itself; registers `%d` are not stored.
    pub(super) fn stores_itself(mut self) -> Self {
        self.stores_itself = true;
        self
    }

    /// Bytes from one lane's operands to the next's.
    pub fn operand_stride(&self) -> u32 {
        self.operand_offsets().last().map_or(0, |&(at, o)| at + o.bytes()).next_multiple_of(RECORD_ALIGNMENT)
    }

    /// Offset of every operand in a lane's record.
    pub fn operand_offsets(&self) -> Vec<(u32, Operand)> {
        let mut at: u32 = 0;
        let place = |&operand: &Operand| {
            let start = at.next_multiple_of(operand.bytes());
            at = start + operand.bytes();
            (start, operand)
        };
        self.operands.iter().map(place).collect()
    }

    /// 32-bit words of one lane's results. They lie one after the other, 64-bit results at even places.
    pub fn output_words(&self) -> u32 {
        self.output_offsets().last().map_or(0, |&(at, o)| at / 4 + o.words())
    }

    /// Offset in bytes of every result in a lane's record.
    pub fn output_offsets(&self) -> Vec<(u32, Output)> {
        let mut word: u32 = 0;
        let place = |&output: &Output| {
            let start = word.next_multiple_of(output.words());
            word = start + output.words();
            (start * 4, output)
        };
        self.outputs.iter().map(place).collect()
    }

    /// Bytes from one lane's results to the next's.
    pub fn output_stride(&self) -> u32 {
        (self.output_words() * 4).next_multiple_of(RECORD_ALIGNMENT)
    }

    /// The module with this form's kernel `conformance(input, output)`.
    ///
    /// The body finds its operands in `%a0`…, leaves results in `%d0`…, and may use `%t0`–`%t7` (32 bits), `%w0`–`%w3`
    /// (64 bits), `%h0`–`%h3` (16 bits), `%p0`–`%p3`, `%lane`, the addresses `%in` and `%out` of the lane's records, and
    /// `%tile`, the lane's 16 bytes of the shared array `tile`.
    pub fn ptx(&self) -> String {
        let mut ptx = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(ptx, "{text}").unwrap_or_default();
        line(format_args!(".version 7.8\n.target sm_80\n.address_size 64\n"));
        line(format_args!(".shared .align 16 .b8 tile[512];\n"));
        line(format_args!(
            ".visible .entry {KERNEL_NAME}(\n    .param .u64 input,\n    .param .u64 output\n)"
        ));
        line(format_args!(".maxntid {LANES_PER_CTA}, 1, 1\n{{"));
        line(format_args!("    .local .align 16 .b8 depot[16];"));
        for (i, operand) in self.operands.iter().enumerate() {
            line(format_args!("    .reg .{} %a{i};", operand.register_type()));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            line(format_args!("    .reg .{} %d{i};", output.register_type()));
        }
        line(format_args!(
            "    .reg .b16 %h<4>;\n    .reg .b32 %t<8>;\n    .reg .b64 %w<4>;\n    .reg .pred %p<4>;"
        ));
        line(format_args!("    .reg .b32 %lane, %tile, %case;\n    .reg .b64 %in, %out, %step;\n"));
        line(format_args!("    mov.u32 %lane, %tid.x;\n    mov.u32 %case, %ctaid.x;"));
        line(format_args!("    mad.lo.u32 %case, %case, {LANES_PER_CTA}, %lane;"));
        for (register, stride) in [("in", self.operand_stride()), ("out", self.output_stride())] {
            line(format_args!("    ld.param.u64 %{register}, [{register}put];"));
            line(format_args!("    cvta.to.global.u64 %{register}, %{register};"));
            line(format_args!("    mul.wide.u32 %step, %case, {stride};"));
            line(format_args!("    add.s64 %{register}, %{register}, %step;"));
        }
        line(format_args!("    mov.u32 %tile, tile;\n    mad.lo.u32 %tile, %lane, 16, %tile;"));
        for (i, (at, operand)) in self.operand_offsets().into_iter().enumerate() {
            line(format_args!("    ld.global.{} %a{i}, [%in+{at}];", operand.register_type()));
        }
        for text in self.body.lines() {
            line(format_args!("    {}", text.trim()));
        }
        if !self.stores_itself {
            for (i, (at, output)) in self.output_offsets().into_iter().enumerate() {
                match output.register_type() {
                    "b16" => {
                        line(format_args!("    cvt.u32.u16 %t7, %d{i};\n    st.global.b32 [%out+{at}], %t7;"))
                    }
                    ty => line(format_args!("    st.global.{ty} [%out+{at}], %d{i};")),
                }
            }
        }
        line(format_args!("    ret;\n}}"));
        ptx
    }

    /// How many leading words of the results a capture keeps as they are; the rest is kept as checksums.
    pub fn raw_words(&self) -> usize {
        let all = (self.cases * self.output_words()) as usize;
        match self.class {
            Class::Exact if self.is_matrix_product() => all.min(4096),
            Class::Exact => all.min(256),
            _ => all,
        }
    }

    fn is_matrix_product(&self) -> bool {
        self.operands.iter().any(|o| matches!(o, Operand::Matrix(_)))
    }

    /// Whether `got` may stand for the captured `expected` as word `index` of a lane's results.
    pub(super) fn accepts(&self, index: u32, expected: u32, got: u32) -> bool {
        let output = self.output_offsets().into_iter().rfind(|&(at, _)| at / 4 <= index).map(|(_, o)| o);
        match output {
            Some(Output::F32) => self.class.accepts(Format::F32, expected, got),
            Some(Output::Half(format)) => {
                expected >> 16 == got >> 16 && self.class.accepts(format, expected & 0xffff, got & 0xffff)
            }
            Some(Output::HalfX2(format)) => {
                self.class.accepts(format, expected >> 16, got >> 16)
                    && self.class.accepts(format, expected & 0xffff, got & 0xffff)
            }
            _ => self.class == Class::Opaque || expected == got,
        }
    }
}

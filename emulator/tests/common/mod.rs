//! Tiny kernels for tests.

#![allow(dead_code, reason = "each test binary uses a part")]

use lacuna_emulator::{Arch, Arg, DevicePtr, Fault, FaultKind, LaunchShape, Machine, Options, Report};

/// Registers of every kind, and three parameters: `%rd1` in, `%rd2` out, `%r1` thread, `%r2` CTA.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 7.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k(.param .u64 .ptr .align 1 in, .param .u64 .ptr .align 1 out) {{
  .reg .pred %p<32>; .reg .b16 %rs<32>; .reg .b32 %r<64>; .reg .b64 %rd<64>;
  ld.param.b64 %rd1, [in]; ld.param.b64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
{body}
  ret;
}}
"
    )
}

/// A machine with a kernel, its input and its output.
pub struct Lab {
    pub machine: Machine,
    pub input: DevicePtr,
    pub output: DevicePtr,
    kernel: lacuna_emulator::KernelId,
}

impl Lab {
    /// Reads the kernel with this body; the input holds `input`, the output `words` words.
    pub fn new(body: &str, input: &[u32], words: usize) -> Self {
        Lab::with_options(body, input, words, Options::default())
    }

    pub fn with_options(body: &str, input: &[u32], words: usize, options: Options) -> Self {
        let mut machine = Machine::with_options(Arch::Sm80, options);
        let module = machine.load_module(&kernel(body), None).unwrap();
        let kernel = machine.kernel(module, "k").unwrap();
        let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (input, output) = (machine.alloc(bytes.len(), "in"), machine.alloc(words * 4, "out"));
        machine.copy_in(input, &bytes).unwrap();
        Lab { machine, input, output, kernel }
    }

    pub fn launch(&mut self, shape: LaunchShape) -> Result<Report, Fault> {
        self.machine.launch(self.kernel, &shape, &[Arg::ptr(self.input), Arg::ptr(self.output)])
    }

    /// The first `words` words of the output.
    pub fn words(&self, words: usize) -> Vec<u32> {
        let mut bytes = vec![0; words * 4];
        self.machine.copy_out(self.output, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

/// Runs one CTA of `threads` threads and gives the output, one word per thread.
pub fn run(body: &str, input: &[u32], threads: u32) -> Vec<u32> {
    let mut lab = Lab::new(body, input, threads as usize);
    lab.launch(LaunchShape::new(1, threads).with_smem(4096)).unwrap();
    lab.words(threads as usize)
}

/// The fault of one CTA of `threads` threads.
pub fn fault(body: &str, input: &[u32], threads: u32) -> Fault {
    let mut lab = Lab::new(body, input, threads as usize);
    lab.launch(LaunchShape::new(1, threads).with_smem(4096)).expect_err("a fault was planted")
}

/// Checks the kind of a fault and the instruction it is put down to.
#[track_caller]
pub fn assert_fault(fault: &Fault, kind: FaultKind, instruction: &str) {
    assert_eq!(fault.kind(), kind, "{fault}");
    let site = fault.site().expect("a fault of a kernel has a site");
    assert!(site.instruction.contains(instruction), "{fault}");
}

/// Stores `%r20` at the thread's word of the output.
pub const STORE: &str =
    "\n  mul.wide.u32 %rd30, %r1, 4; add.s64 %rd30, %rd2, %rd30; st.global.b32 [%rd30], %r20;";
/// Loads the thread's word of the input into `%r10`.
pub const LOAD: &str =
    "  mul.wide.u32 %rd31, %r1, 4; add.s64 %rd31, %rd1, %rd31; ld.global.b32 %r10, [%rd31];\n";

/// One instruction on three values: `%r10 %r11 %r12`, `%rd10…`, `%rs10…` and (their low bits) `%p10…`. The result is what
/// it leaves in `%r20`, `%rd20`, `%rs20` or `%p20`.
pub fn eval(instruction: &str, values: &[u64]) -> u64 {
    let mut body = String::new();
    for i in 0..3 {
        let (at, n) = (i * 8, 10 + i);
        body += &format!(
            "ld.global.b64 %rd{n}, [%rd1+{at}]; cvt.u32.u64 %r{n}, %rd{n}; cvt.u16.u32 %rs{n}, %r{n};
             and.b32 %r40, %r{n}, 1; setp.ne.b32 %p{n}, %r40, 0;\n"
        );
    }
    body += instruction;
    body += match instruction {
        text if text.contains("%rd20") => "\nst.global.b64 [%rd2], %rd20;",
        text if text.contains("%rs20") => "\ncvt.u64.u16 %rd20, %rs20; st.global.b64 [%rd2], %rd20;",
        text if text.contains("%p20") => "\nselp.b64 %rd20, 1, 0, %p20; st.global.b64 [%rd2], %rd20;",
        _ => "\ncvt.u64.u32 %rd20, %r20; st.global.b64 [%rd2], %rd20;",
    };
    let words: Vec<u32> =
        (0..3).flat_map(|i| values.get(i).map_or([0, 0], |&v| [v as u32, (v >> 32) as u32])).collect();
    let mut lab = Lab::new(&body, &words, 2);
    lab.launch(LaunchShape::new(1, 1)).unwrap();
    let out = lab.words(2);
    u64::from(out[0]) | u64::from(out[1]) << 32
}

//! What instructions mean, said a second time.
//!
//! Every form of the conformance table runs on the emulator with its usual operands, and its results are compared with
//! what this folder computes by other means: integers of 128 bits, the host's floating point, byte arrays for memory.

mod convert;
mod float;
mod half_precision;
mod integer;
mod matrix;
mod memory;
mod warp;

use lacuna_emulator::Arch;
use lacuna_emulator::conformance::{Emulated, Form, LANES_PER_CTA, Operand, Output, SEED, forms, run};

/// Operands of one lane, by register.
type Lane = Vec<u64>;

/// What a family expects of a form: nothing where the form is not of the family, else results lane by lane.
type Family = fn(&Form, &[Lane]) -> Option<Vec<Vec<u64>>>;

/// Applies `f` to every lane by itself.
fn each(lanes: &[Lane], f: impl Fn(&[u64]) -> Vec<u64>) -> Option<Vec<Vec<u64>>> {
    Some(lanes.iter().map(|lane| f(lane)).collect())
}

fn operands(form: &Form) -> Vec<Lane> {
    let (inputs, stride) = (form.inputs(SEED), form.operand_stride() as usize);
    let value = |record: &[u8], at: usize, operand: Operand| {
        let wide = operand.bytes() == 8;
        let bytes = &record[at..at + if wide { 8 } else { 4 }];
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | byte as u64)
    };
    let lane = |record: &[u8]| {
        form.operand_offsets().into_iter().map(|(at, o)| value(record, at as usize, o)).collect()
    };
    inputs.chunks_exact(stride).map(lane).collect()
}

fn results(form: &Form, device: &mut Emulated) -> Vec<Vec<u64>> {
    let words = run(device, form, SEED).unwrap_or_else(|error| panic!("{error}"));
    let value = |record: &[u32], at: usize, output: Output| match output.words() {
        2 => record[at] as u64 | (record[at + 1] as u64) << 32,
        _ => record[at] as u64,
    };
    let lane = |record: &[u32]| {
        form.output_offsets().into_iter().map(|(at, o)| value(record, at as usize / 4, o)).collect()
    };
    words.chunks_exact(form.output_words() as usize).map(lane).collect()
}

/// Checks all forms that `family` knows and returns their number.
fn check(family: Family) -> usize {
    let mut device = Emulated::new(Arch::Sm80);
    let mut known = 0;
    for form in forms() {
        let lanes = operands(&form);
        let Some(expected) = family(&form, &lanes) else { continue };
        known += 1;
        let got = results(&form, &mut device);
        for (case, (expected, got)) in expected.iter().zip(&got).enumerate() {
            assert!(
                agree(&form, expected, got),
                "{}: lane {case} (warp {}): operands {:x?} give {got:x?}, expected {expected:x?}",
                form.id,
                case as u32 / LANES_PER_CTA,
                lanes[case]
            );
        }
        assert_eq!(expected.len(), got.len(), "{}", form.id);
    }
    known
}

/// Results of approximate forms agree by the form's class, all others bit for bit.
fn agree(form: &Form, expected: &[u64], got: &[u64]) -> bool {
    use lacuna_emulator::numerics::Format;
    let formats = form.outputs.iter().map(|output| match output {
        Output::F32 => Some((Format::F32, 1)),
        Output::Half(format) => Some((*format, 1)),
        Output::HalfX2(format) => Some((*format, 2)),
        _ => None,
    });
    expected.iter().zip(got).zip(formats).all(|((&expected, &got), format)| match format {
        Some((format, 1)) => form.class.accepts(format, expected as u32, got as u32),
        Some((format, _)) => {
            let accepts = |shift: u32| {
                form.class.accepts(
                    format,
                    (expected >> shift) as u32 & 0xffff,
                    (got >> shift) as u32 & 0xffff,
                )
            };
            accepts(0) && accepts(16)
        }
        None => expected == got,
    })
}

macro_rules! families {
    ($($name:ident: $family:path, at least $count:literal;)*) => {
        $(#[test]
        fn $name() {
            let known = check($family);
            assert!(known >= $count, "only {known} forms are of this family");
        })*

        /// A form that no family knows is listed here with the reason.
        #[test]
        fn every_form_has_a_second_meaning() {
            let families: &[Family] = &[$($family),*];
            for form in forms() {
                let lanes = operands(&form);
                let known = families.iter().filter(|family| family(&form, &lanes).is_some()).count();
                // Directed rounding is checked against brackets in the unit tests of `numerics::scalar`.
                let directed = [".rz", ".rm", ".rp"].iter().any(|round| form.id.contains(round));
                let expected = if directed && known == 0 { 0 } else { 1 };
                assert_eq!(known, expected, "{}", form.id);
            }
        }
    };
}

families! {
    integers: integer::expected, at least 150;
    floats: float::expected, at least 80;
    half_precision_floats: half_precision::expected, at least 60;
    conversions: convert::expected, at least 70;
    memory_accesses: memory::expected, at least 90;
    warp_instructions: warp::expected, at least 40;
    matrices: matrix::expected, at least 11;
}

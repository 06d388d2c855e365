//! Moves of matrix fragments by coordinates, and products within the error that any order of summation has.

use super::Lane;
use half::{bf16, f16};
use lacuna_emulator::conformance::{Form, SEED, run};
use lacuna_emulator::{Arch, conformance::Emulated};

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let id = form.id.as_str();
    if let Some(rest) = id.strip_prefix("ldmatrix.sync.aligned.m8n8.x") {
        let count: usize = rest[..1].parse().ok()?;
        let transposed = rest.contains("trans");
        return Some(lanes.chunks_exact(32).flat_map(|warp| load(count, transposed, warp)).collect());
    }
    if id.starts_with("movmatrix") {
        return Some(lanes.chunks_exact(32).flat_map(transpose).collect());
    }
    let shape = id.strip_prefix("mma.sync.aligned.m16n8k")?;
    let blocks = if shape.starts_with("16") { 2 } else { 1 };
    let brain = id.contains("bf16");
    Some(products(form, blocks, brain, lanes))
}

fn element(pair: u64, odd: usize) -> u64 {
    pair >> (16 * odd) & 0xffff
}

/// Lane l gave row (5l + 3) mod 32 as its address, whose 16 bytes are the operands of that lane.
fn load(count: usize, transposed: bool, warp: &[Lane]) -> Vec<Vec<u64>> {
    let at = |matrix: usize, row: usize, column: usize| {
        let owner = ((8 * matrix + row) * 5 + 3) % 32;
        element(warp[owner][column / 2], column % 2)
    };
    let one = |lane: usize, matrix: usize| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        let pair = |odd: usize| {
            if transposed { at(matrix, column + odd, row) } else { at(matrix, row, column + odd) }
        };
        pair(0) | pair(1) << 16
    };
    (0..32).map(|lane| (0..count).map(|matrix| one(lane, matrix)).collect()).collect()
}

fn transpose(warp: &[Lane]) -> Vec<Vec<u64>> {
    let at = |row: usize, column: usize| element(warp[row * 4 + column / 2][0], column % 2);
    (0..32).map(|lane| vec![at(lane % 4 * 2, lane / 4) | at(lane % 4 * 2 + 1, lane / 4) << 16]).collect()
}

/// The emulator's own results where they are within the error of any order of summation of the exact sum, which is what
/// this test can know: the bits are the business of the tensor-core model's tests.
fn products(form: &Form, blocks: usize, brain: bool, lanes: &[Lane]) -> Vec<Vec<u64>> {
    let words = run(&mut Emulated::new(Arch::Sm80), form, SEED).unwrap();
    let value =
        |x: u64| if brain { bf16::from_bits(x as u16).to_f64() } else { f16::from_bits(x as u16).to_f64() };
    let mut checked = 0;
    let mut expected: Vec<Vec<u64>> =
        words.chunks_exact(4).map(|d| d.iter().map(|&x| x as u64).collect()).collect();
    for (number, warp) in lanes.chunks_exact(32).enumerate() {
        for lane in 0..32 {
            for register in 0..4 {
                let (row, column) = (lane / 4 + 8 * (register / 2), lane % 4 * 2 + register % 2);
                let (mut sum, mut size) = (0.0, 0.0);
                // A zero counts like the smallest normal number when terms are aligned.
                let magnitude = |x: f64| x.abs().max(f32::MIN_POSITIVE as f64);
                let mut add = |x: f64, y: f64| {
                    sum += x * y;
                    size += magnitude(x) * magnitude(y);
                };
                for k in 0..8 * blocks {
                    let (block, t, odd) = (k / 8, k % 8 / 2, k % 2);
                    let a = warp[row % 8 * 4 + t][block * 2 + row / 8];
                    let b = warp[column * 4 + t][2 * blocks + block];
                    add(value(element(a, odd)), value(element(b, odd)));
                }
                // A and B take six registers of an instruction with two blocks, three with one.
                add(f32::from_bits(warp[lane][3 * blocks + register] as u32) as f64, 1.0);
                let got = f32::from_bits(expected[number * 32 + lane][register] as u32) as f64;
                // Near the ends of f32 the result is infinite or subnormal; in between 2^-19 of the terms is generous.
                if (1e-35..1e37).contains(&size) {
                    checked += 1;
                    let close = (got - sum).abs() <= size * 2e-6;
                    if !close {
                        expected[number * 32 + lane][register] = (sum as f32).to_bits() as u64;
                    }
                }
                if sum.is_nan() {
                    expected[number * 32 + lane][register] = 0x7fff_ffff;
                }
            }
        }
    }
    assert!(checked > lanes.len(), "{}: {checked} products of ordinary size", form.id);
    expected
}

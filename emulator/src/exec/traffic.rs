//! Sectors and wavefronts of a memory request.

use crate::memory::lanes;
use crate::report::Totals;

/// Counts one request to global memory of `bytes` bytes per lane.
pub fn count_global(totals: &mut Totals, addresses: &[u64; 32], mask: u32, bytes: u32) {
    let mut sectors = [0u64; 64];
    let mut count = 0;
    for lane in lanes(mask) {
        let (first, last) = (addresses[lane] / 32, (addresses[lane] + u64::from(bytes).max(1) - 1) / 32);
        for sector in first..=last {
            // Lanes in order mostly continue the latest sector.
            if !sectors[..count].iter().rev().any(|&seen| seen == sector) {
                sectors[count] = sector;
                count += 1;
            }
        }
    }
    totals.global_requests += 1;
    totals.global_sectors += count as u64;
    totals.global_bytes += u64::from(bytes) * u64::from(mask.count_ones());
}

/// Counts one request to shared memory. Its lanes go in phases of at most 128 bytes; within a phase, two different words
/// of one of the 32 banks take two wavefronts.
pub fn count_shared(totals: &mut Totals, addresses: &[u64; 32], mask: u32, bytes: u32) {
    let per_phase = match bytes {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    totals.shared_requests += 1;
    totals.shared_bytes += u64::from(bytes) * u64::from(mask.count_ones());
    let phase_mask = u32::MAX >> (32 - per_phase);
    for phase in 0..32 / per_phase {
        let active = mask & phase_mask << (phase * per_phase);
        if active != 0 {
            totals.shared_phases += 1;
            totals.shared_wavefronts += wavefronts(addresses, active, bytes);
        }
    }
}

fn wavefronts(addresses: &[u64; 32], active: u32, bytes: u32) -> u64 {
    let words = |lane: usize| addresses[lane] / 4..(addresses[lane] + u64::from(bytes)).div_ceil(4);
    let mut seen = 0u32;
    let clash = lanes(active).flat_map(words).any(|word| {
        let bank = 1 << (word % 32);
        let clash = seen & bank != 0;
        seen |= bank;
        clash
    });
    if !clash {
        return 1;
    }
    // A word that several lanes want is sent to all of them at once.
    let mut all: Vec<u64> = lanes(active).flat_map(words).collect();
    all.sort_unstable();
    all.dedup();
    let mut per_bank = [0u64; 32];
    all.iter().for_each(|word| per_bank[(word % 32) as usize] += 1);
    per_bank.into_iter().max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(address: impl Fn(u64) -> u64, bytes: u32) -> (u64, u64) {
        let mut totals = Totals::default();
        count_shared(&mut totals, &std::array::from_fn(|lane| address(lane as u64)), u32::MAX, bytes);
        (totals.shared_phases, totals.shared_wavefronts)
    }

    #[test]
    fn bank_conflicts() {
        assert_eq!(shared(|lane| lane * 4, 4), (1, 1));
        assert_eq!(shared(|_| 64, 4), (1, 1), "a broadcast");
        assert_eq!(shared(|lane| lane * 8, 4), (1, 2));
        assert_eq!(shared(|lane| lane * 128, 4), (1, 32));
        assert_eq!(shared(|lane| lane * 16, 16), (4, 4));
        assert_eq!(shared(|lane| lane * 128, 16), (4, 32));
        assert_eq!(shared(|lane| lane * 8, 8), (2, 2));
        assert_eq!(shared(|lane| lane * 2, 2), (1, 1));
    }

    #[test]
    fn sectors() {
        let count = |address: &dyn Fn(u64) -> u64, bytes| {
            let mut totals = Totals::default();
            count_global(&mut totals, &std::array::from_fn(|lane| address(lane as u64)), u32::MAX, bytes);
            totals.global_sectors
        };
        assert_eq!(count(&|lane| lane * 4, 4), 4);
        assert_eq!(count(&|lane| lane * 16, 16), 16);
        assert_eq!(count(&|lane| lane * 256, 4), 32);
        assert_eq!(count(&|_| 96, 4), 1);
    }
}

//! Exchanges between lanes, by the definitions of the PTX ISA, one warp at a time.

use super::Lane;
use lacuna_emulator::conformance::Form;

/// The results of one warp's lanes.
type Warp = dyn Fn(&[Lane]) -> Vec<Vec<u64>>;

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let id = form.id.as_str();
    let warp: Box<Warp> = if let Some(rest) = id.strip_prefix("shfl.sync.") {
        let (mode, width) = rest.split_once(".b32 width ")?;
        let (mode, width) = (mode.to_owned(), width.parse().ok()?);
        Box::new(move |lanes| shuffle(&mode, width, lanes))
    } else if let Some(mode) = id.strip_prefix("vote.sync.") {
        let (mode, negated) = (mode.split('.').next()?.to_owned(), mode.ends_with("negated"));
        Box::new(move |lanes| vote(&mode, negated, lanes))
    } else if let Some(mode) = id.strip_prefix("bar.red.") {
        let mode = mode.to_owned();
        Box::new(move |lanes| {
            let mask = ballot(lanes, |lane| lane[0] != 0);
            let result = match mode.as_str() {
                "and.pred" => (mask == 0xffff_ffff) as u64,
                "or.pred" => (mask != 0) as u64,
                _ => mask.count_ones() as u64,
            };
            vec![vec![result]; 32]
        })
    } else if id.starts_with("match.any") {
        Box::new(|lanes| lanes.iter().map(|a| vec![ballot(lanes, |b| b[0] == a[0])]).collect())
    } else if id.starts_with("match.all") {
        Box::new(|lanes| {
            let all = lanes.iter().all(|a| a[0] == lanes[0][0]);
            vec![vec![if all { 0xffff_ffff } else { 0 }, all as u64]; 32]
        })
    } else if let Some(op) = id.strip_prefix("redux.sync.") {
        let op = op.to_owned();
        Box::new(move |lanes| vec![vec![reduce(&op, lanes)]; 32])
    } else if let Some(name) = id.strip_prefix("mov.u32 from ") {
        let name = name.to_owned();
        Box::new(move |_| (0..32).map(|lane| vec![register(&name, lane)]).collect())
    } else if id == "activemask.b32" {
        Box::new(|_| vec![vec![0xffff_ffff]; 32])
    } else {
        return None;
    };
    Some(lanes.chunks_exact(32).flat_map(warp).collect())
}

fn ballot(lanes: &[Lane], f: impl Fn(&Lane) -> bool) -> u64 {
    lanes.iter().enumerate().map(|(i, lane)| (f(lane) as u64) << i).sum()
}

/// Shuffles within segments of `width` lanes; a source outside the segment leaves the lane its own value.
fn shuffle(mode: &str, width: i64, lanes: &[Lane]) -> Vec<Vec<u64>> {
    let one = |lane: i64| {
        let start = lane / width * width;
        let b = lanes[lane as usize][1] as i64;
        let source = match mode {
            "up" => lane - b,
            "down" => lane + b,
            "bfly" => lane ^ b,
            // The index counts from the start of the segment and wraps.
            _ => start + b % width,
        };
        let inside = match mode {
            "up" => source >= start,
            _ => source < start + width,
        };
        vec![lanes[if inside { source } else { lane } as usize][0], inside as u64]
    };
    (0..32).map(one).collect()
}

fn vote(mode: &str, negated: bool, lanes: &[Lane]) -> Vec<Vec<u64>> {
    let mask = ballot(lanes, |lane| (lane[0] != 0) != negated);
    let result = match mode {
        "all" => (mask == 0xffff_ffff) as u64,
        "any" => (mask != 0) as u64,
        "uni" => (mask == 0 || mask == 0xffff_ffff) as u64,
        _ => mask,
    };
    vec![vec![result]; 32]
}

fn reduce(op: &str, lanes: &[Lane]) -> u64 {
    let values = || lanes.iter().map(|lane| lane[0] as u32);
    let signed = || values().map(|x| x as i32);
    (match op {
        "add.s32" | "add.u32" => values().fold(0, u32::wrapping_add),
        "min.s32" => signed().min().unwrap() as u32,
        "max.s32" => signed().max().unwrap() as u32,
        "min.u32" => values().min().unwrap(),
        "max.u32" => values().max().unwrap(),
        "and.b32" => values().fold(!0, |x, y| x & y),
        "or.b32" => values().fold(0, |x, y| x | y),
        _ => values().fold(0, |x, y| x ^ y),
    }) as u64
}

fn register(name: &str, lane: u32) -> u64 {
    let lanes = |f: &dyn Fn(u32) -> bool| (0..32).map(|i| (f(i) as u64) << i).sum();
    match name {
        "laneid" => lane as u64,
        "lanemask_eq" => lanes(&|i| i == lane),
        "lanemask_lt" => lanes(&|i| i < lane),
        "lanemask_le" => lanes(&|i| i <= lane),
        "lanemask_gt" => lanes(&|i| i > lane),
        "lanemask_ge" => lanes(&|i| i >= lane),
        _ => 32,
    }
}

//! Rotary position embedding, run and compared.

use bytemuck::cast_slice;
use lacuna_core::{Error, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::rope::{Pairing, Plan, Shape, Slot};
use lacuna_reference::testing::{self, Case, Rng, Tensor, Tolerance};
use lacuna_reference::{RopeLayout, RopeScaling, rope, rope_frequencies};

use super::Device;
use super::tensor::{Half, OnDevice, random, strided};

/// Where the slot comes from.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Host,
    Device,
}

/// One call.
pub struct Rotation<T> {
    pub shape: Shape,
    pub qkv: Tensor<T>,
    pub position_ids: Vec<u32>,
    /// Elements before those of the rows, which are no positions.
    pub first_position: usize,
    pub cos_sin: Tensor<f32>,
    pub q: Layout,
    pub k_cache: Layout,
    pub v_cache: Layout,
    pub slot: usize,
    pub from: From,
}

/// What a call leaves behind, contiguous: `[rows, num_heads, head_dim]`, `[capacity, num_heads_k, head_dim]`.
pub struct Rotated<T> {
    pub q: Vec<T>,
    pub k_cache: Vec<T>,
    pub v_cache: Vec<T>,
}

/// Rows of the table of [`Rotation::random`].
pub const POSITIONS: usize = 50;

fn frequencies(shape: &Shape) -> Vec<f64> {
    rope_frequencies(1e4, shape.rotary_dim, &RopeScaling::None).0
}

impl<T: Half> Rotation<T> {
    /// Normal rows at positions in any order, some more than once, somewhere in a larger cache.
    pub fn random(rng: &mut Rng, rows: usize, shape: Shape) -> Self {
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing } = shape;
        let capacity = rows + rng.below(9);
        // Rows of the table lie whole accesses apart where these are of 16 bytes.
        let whole = rotary_dim.is_multiple_of(if pairing == Pairing::HalfSplit { 16 } else { 8 });
        let step = rotary_dim + if whole { *rng.choose(&[0, 4, 12]) } else { *rng.choose(&[0, 1, 6]) };
        let table = Layout {
            token_stride: step,
            batch_stride: POSITIONS * step,
            ..Layout::thd(POSITIONS, 1, rotary_dim)
        };
        let frequencies = frequencies(&shape);
        let cos_sin = Tensor::from_fn(table, |position, _, i| match i.checked_sub(rotary_dim / 2) {
            None => (position as f64 * frequencies[i]).cos(),
            Some(i) => (position as f64 * frequencies[i]).sin(),
        });
        Self {
            shape,
            qkv: random(rng, rows, 1, (num_heads + 2 * num_heads_k) * head_dim),
            position_ids: (0..rows).map(|_| rng.below(POSITIONS) as u32).collect(),
            first_position: rng.below(3),
            cos_sin,
            q: strided(rng, rows, num_heads, head_dim),
            k_cache: strided(rng, capacity, num_heads_k, head_dim),
            v_cache: strided(rng, capacity, num_heads_k, head_dim),
            slot: rng.below(capacity - rows + 1),
            from: *rng.choose(&[From::Host, From::Device]),
        }
    }

    pub fn rows(&self) -> usize {
        self.q.tokens()
    }

    /// On the device.
    pub fn run(&self, device: &Device) -> Result<Rotated<T>, Error> {
        let context = &device.context;
        let stream = context.default_stream();
        let plan = Plan::<T>::new(context, &self.shape)?;
        let qkv = OnDevice::copy(device, &self.qkv.view(), "qkv");
        let mut ids = vec![u32::MAX; self.first_position];
        ids.extend(&self.position_ids);
        let ids = DeviceBuffer::from_host(context, &ids, "position_ids")?;
        let cos_sin = OnDevice::copy(device, &self.cos_sin.view(), "cos_sin");
        let mut q = OnDevice::poisoned(device, self.q, "q");
        let mut k_cache = OnDevice::poisoned(device, self.k_cache, "k_cache");
        let mut v_cache = OnDevice::poisoned(device, self.v_cache, "v_cache");
        let slots = DeviceBuffer::from_host(context, &[u32::MAX, self.slot as u32], "slots")?;
        let slot = match self.from {
            From::Host => Slot::At(self.slot),
            From::Device => Slot::OnDevice(&slots, 1),
        };
        plan.run(
            &stream,
            &qkv.view(),
            &ids,
            self.first_position,
            &cos_sin.view(),
            &mut q.view_mut(),
            &mut k_cache.view_mut(),
            &mut v_cache.view_mut(),
            slot,
        )?;
        Ok(Rotated { q: q.read(device), k_cache: k_cache.read(device), v_cache: v_cache.read(device) })
    }

    /// Head `head` of row `row` of the projections, turned as the runner does on a CPU: in f32, rounded once. Values are
    /// not.
    fn head(&self, row: usize, head: usize) -> Vec<T> {
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing } = self.shape;
        let mut x = self.qkv.view().row(row, 0)[head * head_dim..][..head_dim].to_vec();
        if head >= num_heads + num_heads_k {
            return x;
        }
        let half = rotary_dim / 2;
        let position = self.position_ids[row] as usize;
        for i in 0..half {
            let angle = |i: usize| {
                if position < POSITIONS { self.cos_sin.view().row(position, 0)[i] } else { f32::NAN }
            };
            let (cos, sin) = (angle(i), angle(half + i));
            let (first, second) = match pairing {
                Pairing::HalfSplit => (i, i + half),
                Pairing::Interleaved => (2 * i, 2 * i + 1),
            };
            let (a, b) = (x[first].to_f32(), x[second].to_f32());
            x[first] = T::from_f32(a * cos - b * sin);
            x[second] = T::from_f32(b * cos + a * sin);
        }
        x
    }

    /// What all three outputs hold.
    pub fn formula(&self) -> Rotated<T> {
        let Shape { num_heads, num_heads_k, .. } = self.shape;
        let nan = T::from_f32(f32::NAN);
        let cached = |first: usize| {
            let tokens = 0..self.k_cache.tokens();
            let heads = tokens.flat_map(|token| (0..num_heads_k).map(move |head| (token, head)));
            let row = |token: usize| token.checked_sub(self.slot).filter(|&row| row < self.rows());
            heads
                .flat_map(|(token, head)| match row(token) {
                    Some(row) => self.head(row, first + head),
                    None => vec![nan; self.shape.head_dim],
                })
                .collect()
        };
        let queries = (0..self.rows()).flat_map(|row| (0..num_heads).map(move |head| (row, head)));
        Rotated {
            q: queries.flat_map(|(row, head)| self.head(row, head)).collect(),
            k_cache: cached(num_heads),
            v_cache: cached(num_heads + num_heads_k),
        }
    }

    /// On the device, and compared bit for bit with the formula in f32.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) -> Rotated<T> {
        let got = super::unwrap(self.run(device), case);
        let want = self.formula();
        same(&got.q, &want.q, "q", case);
        same(&got.k_cache, &want.k_cache, "k_cache", case);
        same(&got.v_cache, &want.v_cache, "v_cache", case);
        got
    }

    /// Queries and keys of a call whose positions lie in the table, compared with f64.
    #[track_caller]
    pub fn check_reference(&self, got: &Rotated<T>, case: &Case) {
        let Shape { num_heads, num_heads_k, head_dim, pairing, .. } = self.shape;
        let heads = num_heads + 2 * num_heads_k;
        let contiguous = Tensor::<T>::from_fn(Layout::thd(self.rows(), heads, head_dim), |row, head, i| {
            self.qkv.view().row(row, 0)[head * head_dim + i].to_f32() as f64
        });
        let layout = match pairing {
            Pairing::HalfSplit => RopeLayout::HalfSplit,
            Pairing::Interleaved => RopeLayout::Interleaved,
        };
        let frequencies = frequencies(&self.shape);
        let want = rope(&contiguous.view(), &self.position_ids, &frequencies, 1.0, layout).unwrap();
        let of = |first: usize, count: usize| -> Vec<f64> {
            let rows = want.chunks(heads * head_dim);
            rows.flat_map(|row| &row[first * head_dim..][..count * head_dim]).copied().collect()
        };
        // Numbers up to 8, rounded to 8 or 11 bits.
        let tolerance = Tolerance::absolute(if size_of_fraction::<T>() == 7 { 0.016 } else { 0.002 });
        testing::assert_close(&got.q, &of(0, num_heads), tolerance, case);
        let cached = &got.k_cache[self.slot * num_heads_k * head_dim..];
        let cached = &cached[..self.rows() * num_heads_k * head_dim];
        testing::assert_close(cached, &of(num_heads, num_heads_k), tolerance, case);
    }
}

/// Bits of the fraction of a 16-bit type.
fn size_of_fraction<T: Half>() -> u32 {
    if T::from_f32(1.0 + 2f32.powi(-8)).to_f32() == 1.0 { 7 } else { 10 }
}

/// The same bits; any NaN for NaN.
#[track_caller]
fn same<T: Half>(got: &[T], want: &[T], what: &str, case: &Case) {
    assert_eq!(got.len(), want.len());
    let (bits, wanted): (&[u16], &[u16]) = (cast_slice(got), cast_slice(want));
    for i in 0..got.len() {
        let same = bits[i] == wanted[i] || (got[i].to_f32().is_nan() && want[i].to_f32().is_nan());
        assert!(same, "{what}[{i}] is {:?}, want {:?}\n  repeat: {case}", got[i], want[i]);
    }
}

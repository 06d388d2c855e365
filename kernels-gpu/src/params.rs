//! What the launchers hand to the kernels beside device pointers: plain structs, the same bytes on both sides.
//!
//! No struct here has padding or holds a pointer: a pointer that is a kernel parameter of its own is known to point to
//! global memory, one loaded from a struct is not.

/// A kernel parameter that is passed by value.
///
/// # Safety
/// Implementors are `repr(C)`, hold no padding, and are valid for every bit pattern.
pub unsafe trait Params: Copy + 'static {
    /// The bytes a launch passes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: no padding, so that every byte is initialised; the slice borrows `self`.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

/// Declares padding-free parameter structs and their sizes.
macro_rules! params {
    ($($(#[$meta:meta])* $name:ident, $bytes:literal { $($(#[$doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        // SAFETY: `repr(C)`, made of integers and floats; the sizes of the fields add up to that of the struct.
        unsafe impl Params for $name {}
        const _: () = assert!(size_of::<$name>() == $bytes && $bytes == 0 $(+ size_of::<$type>())*);
    )*};
}

params! {
    /// Where the rows of a tensor `[tokens, heads, head_dim]` lie, in elements. The last dimension is contiguous.
    ///
    /// Kernels move 16 bytes at a time: base pointers must be multiples of 16 bytes, strides of 16-bit elements multiples
    /// of 8 and those of f32 multiples of 4.
    Strides, 16 {
        /// From a token to the next.
        token: u64,
        /// From a head to the next.
        head: u64,
    }

    /// The factor of the logits, made positive: a negative one is moved to the queries, zero takes them to zero.
    SoftmaxScale, 12 {
        /// `|softmax_scale| * log2(e)`, positive.
        log2: f32,
        /// Queries, as pairs of 16-bit elements, are taken to `(q & query_and) ^ query_xor`.
        query_and: u32,
        /// See `query_and`.
        query_xor: u32,
    }

    /// The last parameter of `dense_attention` and `block_sparse_attention`.
    AttentionParams, 96 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[total_k, num_heads_k, head_dim]`.
        k: Strides,
        /// Values, `[total_k, num_heads_k, head_dim]`.
        v: Strides,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// Query tokens over the whole batch: a row of `softmax_lse`.
        total_q: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`. `(group, 1)` for heads that share a KV head with their neighbours, `(1, num_heads_k)` for
        /// interleaved ones.
        head_step: u32,
        /// 1 for the bottom-right aligned causal mask, 0 for none.
        causal: u32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
        /// Keys of a mask block, a multiple of the kernel's `tile_n`. Dense attention takes no notice.
        block_n: u32,
    }

    /// An entry of the tile table of `dense_attention`: which rows a CTA works on, and the lengths of their sequence.
    QTile, 20 {
        /// The first query token of the sequence, on the token axis.
        q_start: u32,
        /// Query tokens of the sequence.
        q_len: u32,
        /// The first key token of the sequence, on the token axis.
        k_start: u32,
        /// Key tokens of the sequence.
        k_len: u32,
        /// The first row of the tile, counted from `q_start`; below `q_len`, a multiple of the kernel's `tile_m`.
        row: u32,
    }

    /// An entry of the tile table of `block_sparse_attention`.
    SparseQTile, 28 {
        /// The first query token of the sequence, on the token axis.
        q_start: u32,
        /// Query tokens of the sequence.
        q_len: u32,
        /// The first key token of the sequence, on the token axis.
        k_start: u32,
        /// Key tokens of the sequence.
        k_len: u32,
        /// The first row of the tile, counted from `q_start`; below `q_len`, a multiple of the kernel's `tile_m`.
        row: u32,
        /// The row of the block mask that holds the tile's list for query head 0.
        mask_row: u32,
        /// From there to the row of the next head: the query blocks of the sequence.
        mask_row_step: u32,
    }

    /// The last parameter of `decode_attention` and of the merge of its splits.
    DecodeParams, 112 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[_, num_heads_k, head_dim]`.
        k: Strides,
        /// Values, `[_, num_heads_k, head_dim]`.
        v: Strides,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// Query tokens over the whole batch: a row of `softmax_lse`.
        total_q: u32,
        /// KV heads.
        num_heads_k: u32,
        /// Query heads that read one KV head.
        group: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`, and [`AttentionParams::head_step`].
        head_step: u32,
        /// 1 for the bottom-right aligned causal mask, 0 for none.
        causal: u32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
        /// Splits that the workspace has room for: at least [`crate::tile_size::decode_splits`] of every sequence.
        max_splits: u32,
        /// Tiles of the kernel's `tile_m` that cover the packed rows of the longest query.
        row_tiles: u32,
        /// Query rows that the workspace has room for: at least those of every sequence.
        max_seqlen_q: u32,
    }

    /// The last parameter of `merge_state`. Strides are in elements.
    MergeParams, 72 {
        /// Parts: within one of them.
        part: Strides,
        /// From a part to the next.
        part_step: u64,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// The parts' LSE `[num_heads, total_q]`: from a head to the next.
        part_lse_head: u64,
        /// From the LSE of a part to that of the next.
        part_lse_step: u64,
        /// Tokens.
        total_q: u32,
        /// Heads.
        num_heads: u32,
        /// Parts; 0 gives empty results.
        num_parts: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}

impl SoftmaxScale {
    /// The largest `|softmax_scale|`: beyond it the running maximum's start would overflow once scaled.
    pub const MAX: f32 = 1e8;

    /// From the factor of the logits: finite, at most [`SoftmaxScale::MAX`] in magnitude.
    pub fn new(softmax_scale: f32) -> Self {
        if softmax_scale == 0.0 {
            return Self { log2: 1.0, query_and: 0, query_xor: 0 };
        }
        let log2 = (softmax_scale.abs() as f64 * core::f64::consts::LOG2_E) as f32;
        let query_xor = if softmax_scale < 0.0 { 0x8000_8000 } else { 0 };
        Self { log2, query_and: u32::MAX, query_xor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_scale_moves_to_the_queries() {
        let scale = SoftmaxScale::new(-0.5);
        assert_eq!(scale, SoftmaxScale { query_xor: 0x8000_8000, ..SoftmaxScale::new(0.5) });
        assert!((scale.log2 - 0.5 * core::f32::consts::LOG2_E).abs() < 1e-7);
        assert_eq!(SoftmaxScale::new(0.0), SoftmaxScale { log2: 1.0, query_and: 0, query_xor: 0 });
    }

    #[test]
    fn bytes_are_the_fields_in_order() {
        let tile = QTile { q_start: 1, q_len: 2, k_start: 3, k_len: 4, row: 5 };
        let words = tile.as_bytes().as_chunks::<4>().0;
        assert!(words.iter().map(|&w| u32::from_ne_bytes(w)).eq(1..=5));
    }
}

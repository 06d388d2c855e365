//! Attention of a few query rows over a padded KV cache.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result, Seqlens, TensorView};

use crate::masked_attention::{AttentionOutput, masked_attention};

/// Attention of the last `seqlen_q` tokens of each sequence over its cache, of which the first `cache_seqlens[b]` tokens
/// are filled (flash-attn's `flash_attn_with_kvcache`).
///
/// `q` is `[batch * seqlen_q, num_heads, head_dim]`, the caches `[batch * capacity, num_heads_k, head_dim]` with token
/// `b * capacity + j` the `j`-th of sequence `b`; `batch` is the length of `cache_seqlens`. Causal is bottom-right
/// aligned among the query rows: row `i` sees key `j` iff `j <= i + cache_seqlens[b] - seqlen_q`. Cache beyond
/// `cache_seqlens[b]` is never read.
///
/// # Errors
/// Token counts that `batch` does not divide, caches of different shapes, lengths over the capacity, and as
/// [`masked_attention`].
pub fn decode_attention<T: Element>(
    q: &TensorView<T>,
    k_cache: &TensorView<T>,
    v_cache: &TensorView<T>,
    cache_seqlens: &[u32],
    options: &AttentionOptions,
) -> Result<AttentionOutput> {
    const OP: &str = "decode_attention";
    let batch = cache_seqlens.len();
    let per_sequence = |arg, tokens: usize| match tokens.checked_div(batch) {
        Some(n) if n * batch == tokens => Ok(n),
        None if tokens == 0 => Ok(0),
        _ => Err(Error::invalid(OP, arg, format_args!("{batch} sequences of equal length"), tokens)),
    };
    let [total_q, num_heads, head_dim] = q.shape();
    let seqlen_q = per_sequence("q", total_q)?;
    let capacity = per_sequence("k_cache", k_cache.shape()[0])?;
    if let Some(&n) = cache_seqlens.iter().find(|&&n| n as usize > capacity) {
        return Err(Error::invalid(
            OP,
            "cache_seqlens",
            format_args!("at most the capacity ({capacity})"),
            n,
        ));
    }
    // The padded cache as a ragged batch of full length: sequence `b` ends at `cache_seqlens[b]`, so the masks below
    // shift the causal diagonal and hide the rest.
    let shape = AttentionShape::new(
        num_heads,
        k_cache.shape()[1],
        head_dim,
        Seqlens::uniform(batch, seqlen_q, capacity)?,
    )?;
    let all = AttentionOptions { causal: false, ..*options };
    masked_attention(&shape, q, k_cache, v_cache, &all, |b, _, i, j| {
        let len = cache_seqlens[b] as usize;
        j < len && (!options.causal || j + seqlen_q <= i + len)
    })
}

//! The check that a tensor holds no NaN and no infinity.

use lacuna_core::{Element, Error, Result, TensorView};
use rayon::prelude::*;

use crate::tile_size::FINITE_CHUNK;

/// Refuses the first NaN or infinity of `x`, in the order of tokens and then heads, naming both.
///
/// Attention operations call it for the queries: one that is not finite would make its whole row NaN, silently.
///
/// # Errors
/// [`Error::NotFinite`], with `op` and `arg` as given.
pub fn check_finite<T: Element>(op: &'static str, arg: &'static str, x: &TensorView<T>) -> Result<()> {
    let [tokens, heads, head_dim] = x.shape();
    let chunk = (FINITE_CHUNK / (heads * head_dim).max(1)).max(1);
    let first_bad = |token: usize| {
        let head = (0..heads).find(|&head| {
            // No early exit: a reduction over the row vectorises, a search does not.
            x.row(token, head).iter().fold(false, |bad, x| bad | !x.is_finite())
        })?;
        let value = x.row(token, head).iter().find(|x| !x.is_finite())?.to_f32();
        Some(Error::NotFinite { op, arg, value, token, head })
    };
    let search = |i: usize| (i * chunk..((i + 1) * chunk).min(tokens)).find_map(first_bad);
    let chunks = tokens.div_ceil(chunk);
    // A few rows are checked sooner than a thread wakes.
    let bad = if chunks > 1 {
        (0..chunks).into_par_iter().find_map_first(search)
    } else {
        (0..chunks).find_map(search)
    };
    bad.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn names_the_first_value_of_many_chunks() {
        let (tokens, heads, head_dim) = (3 * FINITE_CHUNK / 64, 2, 32);
        let mut data = vec![f16::ONE; tokens * heads * head_dim];
        let check =
            |data: &[f16]| check_finite("op", "q", &TensorView::thd(data, tokens, heads, head_dim).unwrap());
        check(&data).unwrap();
        data[(tokens - 1) * heads * head_dim] = f16::NAN;
        data[((tokens / 2) * heads + 1) * head_dim + 31] = f16::NEG_INFINITY;
        match check(&data).unwrap_err() {
            Error::NotFinite { op: "op", arg: "q", value, token, head } => {
                assert_eq!((value, token, head), (f32::NEG_INFINITY, tokens / 2, 1));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn nothing_is_finite() {
        check_finite::<f32>("op", "q", &TensorView::thd(&[], 0, 2, 32).unwrap()).unwrap();
    }
}

//! Rows of a tensor by index.

use lacuna_core::{Element, TensorView};

/// `out[i] = rows[index[i]]` along the token axis, for all heads: `[indices, heads, head_dim]`. An index beyond the last
/// token gives zeros.
pub fn gather_rows<T: Element>(rows: &TensorView<T>, index: &[u32]) -> Vec<f64> {
    let [tokens, heads, head_dim] = rows.shape();
    let mut out = Vec::new();
    for &token in index {
        for head in 0..heads {
            if (token as usize) < tokens {
                out.extend(rows.row(token as usize, head).iter().map(|x| x.to_f32() as f64));
            } else {
                out.extend(std::iter::repeat_n(0.0, head_dim));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_index() {
        let data = [0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0];
        let rows = TensorView::thd(&data, 3, 2, 1).unwrap();
        assert_eq!(gather_rows(&rows, &[2, 0, 3, 2]), [4.0, 5.0, 0.0, 1.0, 0.0, 0.0, 4.0, 5.0]);
        assert!(gather_rows(&rows, &[]).is_empty());
    }
}

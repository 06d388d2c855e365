//! Token embeddings.

use lacuna_core::{Element, Error, Result};

/// The rows of `table`, `[vocab_size, hidden_size]`, that `ids` name: `[ids, hidden_size]`.
///
/// # Errors
/// An id outside the vocabulary, a table that is no whole number of rows.
pub fn embed<T: Element>(table: &[T], ids: &[u32], hidden_size: usize) -> Result<Vec<f64>> {
    const OP: &str = "embed";
    if hidden_size == 0 || !table.len().is_multiple_of(hidden_size) {
        return Err(Error::invalid(OP, "table", format_args!("rows of {hidden_size} features"), table.len()));
    }
    let vocab_size = table.len() / hidden_size;
    let mut rows = Vec::new();
    for &id in ids {
        if id as usize >= vocab_size {
            return Err(Error::invalid(OP, "ids", format_args!("below {vocab_size}"), id));
        }
        rows.extend(table[id as usize * hidden_size..][..hidden_size].iter().map(|x| x.to_f32() as f64));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_id() {
        let table = [0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(embed(&table, &[2, 0, 2], 2).unwrap(), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
        assert!(embed(&table, &[3], 2).unwrap_err().to_string().contains("below 3, got 3"));
        assert!(embed(&table, &[0], 4).is_err());
    }
}

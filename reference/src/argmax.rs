//! The largest logit.

use lacuna_core::Element;

/// The index of the largest element, the lowest one on ties. NaN comes after every number; `None` for an empty slice.
///
/// ```
/// assert_eq!(lacuna_reference::argmax(&[f32::NAN, 1.0, 3.0, 3.0]), Some(2));
/// ```
pub fn argmax<T: Element>(x: &[T]) -> Option<usize> {
    let mut best = None;
    for (i, x) in x.iter().map(|x| x.to_f32()).enumerate() {
        if best.is_none_or(|(_, b): (usize, f32)| x > b || (b.is_nan() && !x.is_nan())) {
            best = Some((i, x));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_infinities_and_nan() {
        assert_eq!(argmax::<f32>(&[]), None);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), Some(0));
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, f32::NAN]), Some(1));
        assert_eq!(argmax(&[1.0f32, f32::INFINITY, f32::INFINITY]), Some(1));
        assert_eq!(argmax(&[-0.0f32, 0.0]), Some(0));
    }
}

//! Whether an answer is right.

/// Whether an answer is a value, but for white space around it and a full stop after it.
pub fn is_value(answer: &str, value: &str) -> bool {
    let answer = answer.trim();
    answer.strip_suffix('.').unwrap_or(answer).trim_end() == value.trim()
}

/// Whether an answer contains one of the references, in whatever case. An empty reference is in none.
pub fn contains_reference(answer: &str, references: &[String]) -> bool {
    let answer = answer.to_lowercase();
    let mut references = references.iter().map(|reference| reference.trim().to_lowercase());
    references.any(|reference| !reference.is_empty() && answer.contains(&reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_all_of_the_answer() {
        for right in ["1234567", " 1234567.\n", "1234567 ."] {
            assert!(is_value(right, "1234567"), "{right}");
        }
        for wrong in ["", "123456", "12345678", "1234567 and more", "x1234567", "1234567.."] {
            assert!(!is_value(wrong, "1234567"), "{wrong}");
        }
    }

    #[test]
    fn any_reference_will_do() {
        let references = ["The Kitchen".to_owned(), String::new(), "hall".to_owned()];
        for right in ["in the kitchen.", "HALL", "the hallway"] {
            assert!(contains_reference(right, &references), "{right}");
        }
        for wrong in ["", "kitchen", "garden"] {
            assert!(!contains_reference(wrong, &references), "{wrong}");
        }
        assert!(!contains_reference("anything", &[]));
    }
}

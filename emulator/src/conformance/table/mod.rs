//! The table of forms, for sm_80 PTX.

mod convert;
mod float;
mod half;
mod integer;
mod matrix;
mod memory;
mod warp;

use super::form::Form;

/// Every form, in a fixed order.
pub fn forms() -> Vec<Form> {
    let families = [
        integer::forms(),
        float::forms(),
        half::forms(),
        convert::forms(),
        warp::forms(),
        matrix::forms(),
        memory::forms(),
    ];
    families.into_iter().flatten().collect()
}

/// The form called `id`.
pub fn form(id: &str) -> Option<Form> {
    forms().into_iter().find(|form| form.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::LANES_PER_CTA;
    use crate::numerics::Class;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_large_and_its_names_are_unique() {
        let forms = forms();
        assert!(forms.len() >= 350, "{} forms", forms.len());
        let names: HashSet<&str> = forms.iter().map(|form| form.id.as_str()).collect();
        assert_eq!(names.len(), forms.len());
        assert!(form("fma.rn.f32").is_some() && form("no.such.instruction").is_none());
    }

    #[test]
    fn every_form_runs_whole_warps_and_has_results() {
        for form in forms() {
            assert!(form.cases > 0 && form.cases % LANES_PER_CTA == 0, "{}", form.id);
            assert!(form.output_words() > 0, "{}", form.id);
            assert!(form.ptx().is_ascii(), "{}", form.id);
        }
    }

    #[test]
    fn only_approximate_functions_may_differ() {
        for form in forms().iter().filter(|form| form.class != Class::Exact) {
            assert!(form.id.contains(".approx") || form.id.contains("div.full"), "{}", form.id);
        }
    }

    #[test]
    fn a_capture_of_everything_fits_the_committed_size() {
        let words: usize = forms()
            .iter()
            .map(|form| {
                let all = (form.cases * form.output_words()) as usize;
                form.raw_words() + (all - form.raw_words()).div_ceil(256) + 20
            })
            .sum();
        assert!(words * 4 < crate::conformance::MAX_ARCHIVE_BYTES, "{} bytes", words * 4);
    }
}

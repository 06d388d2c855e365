//! Logits equal those of Hugging Face transformers. `golden/make_golden.py` makes the checkpoints and says how.

mod common;

use common::{Golden, golden, relative_error};
use lacuna::{DType, Pattern};
use lacuna_runner::model::{self, ForwardOptions, LoadOptions, LogitRows};

const TOLERANCE: f32 = 1e-4;

/// Logits of all rows.
fn run(golden: &Golden, dtype: Option<DType>, pattern: Pattern) -> Vec<f32> {
    let model = model::load(&golden.dir, &LoadOptions { dtype, ..Default::default() }, &mut |_| ()).unwrap();
    let rows: Vec<usize> = (0..golden.tokens.len()).collect();
    let options = ForwardOptions {
        pattern,
        position_ids: Some(&golden.position_ids),
        logits: LogitRows::These(&rows),
        ..Default::default()
    };
    let mut session = model.session(golden.tokens.len()).unwrap();
    session.forward(&golden.tokens, &options, &mut ()).unwrap().0
}

fn check(name: &str) {
    let golden = golden(name);
    let error = relative_error(&run(&golden, None, Pattern::Dense), &golden.logits);
    assert!(error <= TOLERANCE, "{name}: relative error {error}");
    for (dtype, tolerance) in [(DType::Bf16, 0.1), (DType::F16, 0.02)] {
        let error = relative_error(&run(&golden, Some(dtype), Pattern::Dense), &golden.logits);
        assert!(error <= tolerance, "{name} in {dtype}: relative error {error}");
        assert!(error > TOLERANCE, "{name} in {dtype} is as exact as f32");
    }
}

#[test]
fn mha_tied_new_style_rope() {
    check("mha_d16_tied");
}

#[test]
fn gqa2_biases_linear_rope_old_style() {
    check("gqa2_d32_bias_linear");
}

#[test]
fn gqa4_tied_llama3_rope_at_positions_from_301() {
    check("gqa4_d64_llama3");
}

#[test]
fn mha_d128_untied_llama3_rope_old_style() {
    check("mha_d128_llama3");
}

#[test]
fn position_ids_matter_where_they_should() {
    // Relative positions alone enter the attention: a shift changes nothing, a gap does.
    let mut golden = golden("gqa4_d64_llama3");
    golden.position_ids.iter_mut().for_each(|p| *p -= 301);
    assert!(relative_error(&run(&golden, None, Pattern::Dense), &golden.logits) <= TOLERANCE);
    golden.position_ids[40..].iter_mut().for_each(|p| *p += 10);
    assert!(relative_error(&run(&golden, None, Pattern::Dense), &golden.logits) > 0.01);
}

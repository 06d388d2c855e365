//! Hidden states, counted as `transformers` counts them.

use lacuna_runner::model::{ForwardOptions, LogitRows, PassOptions};

use super::Setup;

/// The hidden states of the tokens of a pass, and the logits of all rows.
fn states(setup: &Setup, hidden_states: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
    let (_, tokens) = setup.tokens();
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let forward = ForwardOptions { logits: LogitRows::These(&rows), ..Default::default() };
    let options = PassOptions { forward, hidden_states, ..Default::default() };
    let output = setup.filled().pass(&tokens, options, &mut ()).unwrap();
    (output.hidden_states, output.logits)
}

pub fn they_are_counted_back_from_the_last_layer(setup: &Setup) {
    let config = setup.model.config();
    let (layers, hidden) = (config.num_hidden_layers, config.hidden_size);
    let (_, tokens) = setup.tokens();
    let (all, logits) = states(setup, layers + 1);
    assert_eq!(all.len(), layers + 1);
    assert!(all.iter().all(|state| state.len() == tokens.len() * hidden));
    // The first are the embeddings.
    let embedding = setup.weight("model.embed_tokens");
    let embedded = tokens.iter().flat_map(|&token| &embedding[token as usize * hidden..][..hidden]);
    assert!(all[0].iter().eq(embedded));
    // The last one is what the output matrix reads.
    let lm_head = setup.weight("lm_head");
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>() as f32;
    let want: Vec<f32> = all[layers]
        .chunks_exact(hidden)
        .flat_map(|x| lm_head.chunks_exact(hidden).map(move |w| dot(x, w)))
        .collect();
    let error = super::relative_error(&logits, &want);
    assert!(error < 1e-5, "logits of the last hidden state: relative error {error}");
    // Fewer are the last ones, more than there are all of them.
    let (two, same) = states(setup, 2);
    assert_eq!((&two[..], &same), (&all[layers - 1..], &logits));
    assert_eq!(states(setup, usize::MAX).0, all);
    // The logits do not depend on them, but for the rows that go through the last layer together.
    setup.assert_close(&states(setup, 0).1, &logits, "logits without hidden states");
}

/// The residual stream after the first of two layers, normed as the last one is, is the last hidden state of the first alone.
pub fn of_one_layer(two: &Setup, one: &Setup) {
    let config = two.model.config();
    let norm = two.weight("model.norm");
    let (all, _) = states(two, 2);
    let normed: Vec<f32> = all[0]
        .chunks_exact(config.hidden_size)
        .flat_map(|x| {
            let squares: f64 = x.iter().map(|x| (*x as f64).powi(2)).sum();
            let rms = (squares / x.len() as f64 + config.rms_norm_eps).sqrt();
            x.iter().zip(norm).map(move |(x, w)| (*x as f64 / rms * *w as f64) as f32)
        })
        .collect();
    two.assert_close(&states(one, 1).0[0], &normed, "the state between two layers");
}

/// The last layer makes numbers that are too large of every token: of the first of those that it is run for, the error speaks.
pub fn not_finite(setup: &Setup) {
    let tokens = setup.tokens().1;
    let mut session = setup.session();
    for (hidden_states, token) in [(0, 3), (1, 0), (3, 0)] {
        let forward = ForwardOptions { logits: LogitRows::These(&[3, 5]), ..Default::default() };
        let options = PassOptions { forward, hidden_states, ..Default::default() };
        let refused = session.pass(&tokens, options, &mut ()).unwrap_err().to_string();
        let (layer, dtype) = (setup.model.config().num_hidden_layers - 1, setup.model.dtype());
        let expected = format!(
            "the activations after layer {layer} are not finite at token {token} with {dtype} arithmetic"
        );
        assert_eq!((refused, session.len()), (expected, 0));
    }
}

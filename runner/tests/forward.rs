//! The forward pass: chunks, decode, rollback, patterns, rows, types, and what it refuses.

mod common;

use common::*;
use lacuna::{
    BlockMask, DType, FlexPrefillOptions, Pattern, Selection, Threshold, ThresholdTable, XAttentionOptions,
};
use lacuna_runner::Error;
use lacuna_runner::model::{
    self, ForwardOptions, LayerReport, LoadOptions, LogitRows, Model, Observer, Session,
};
use serde_json::json;

const LEN: usize = 300;

fn load(dir: &tempfile::TempDir) -> Box<dyn Model> {
    model::load(dir.path(), &Default::default(), &mut |_| ()).unwrap()
}

fn all_rows(session: &mut dyn Session, tokens: &[u32], pattern: Pattern) -> Vec<f32> {
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let options = ForwardOptions { pattern, logits: LogitRows::These(&rows), ..Default::default() };
    session.forward(tokens, &options, &mut ()).unwrap().0
}

#[test]
fn a_chunked_prefill_equals_an_unchunked_one() {
    let dir = random_checkpoint(1);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 2);
    let want = all_rows(&mut *model.session(LEN).unwrap(), &tokens, Pattern::Dense);
    for chunk in [1, 7, 128, 299] {
        let mut session = model.session(LEN + 5).unwrap();
        let got: Vec<f32> =
            tokens.chunks(chunk).flat_map(|c| all_rows(&mut *session, c, Pattern::Dense)).collect();
        let error = relative_error(&got, &want);
        assert!(error < 1e-5, "chunks of {chunk}: {error}");
    }
}

#[test]
fn prefill_and_decode_equal_one_longer_prefill() {
    let dir = random_checkpoint(3);
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let model =
            model::load(dir.path(), &LoadOptions { dtype: Some(dtype), ..Default::default() }, &mut |_| ())
                .unwrap();
        let vocab = model.config().vocab_size;
        let tokens = random_tokens(LEN, 4);
        let want = all_rows(&mut *model.session(LEN).unwrap(), &tokens, Pattern::Dense);
        let mut session = model.session(LEN).unwrap();
        let (first, _) = session.forward(&tokens[..270], &ForwardOptions::default(), &mut ()).unwrap();
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.05 };
        assert!(relative_error(&first, &want[269 * vocab..270 * vocab]) < tolerance);
        for (i, &token) in tokens.iter().enumerate().skip(270) {
            let error = relative_error(session.decode(token).unwrap(), &want[i * vocab..(i + 1) * vocab]);
            assert!(error < tolerance, "token {i} in {dtype}: {error}");
        }
        assert_eq!(session.len(), LEN);
    }
}

#[test]
fn truncation_lets_another_question_follow_the_same_prompt() {
    let dir = random_checkpoint(5);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 6);
    let mut session = model.session(LEN).unwrap();
    all_rows(&mut *session, &tokens[..200], Pattern::Dense);
    let first = all_rows(&mut *session, &tokens[200..250], Pattern::Dense);
    session.truncate(200).unwrap();
    all_rows(&mut *session, &tokens[250..], Pattern::Dense);
    session.decode(9).unwrap();
    session.truncate(200).unwrap();
    // The same bits: nothing of the second question is left.
    assert_eq!(all_rows(&mut *session, &tokens[200..250], Pattern::Dense), first);
    assert!(matches!(session.truncate(251), Err(Error::InvalidArgument { arg: "len", .. })));
}

/// Every pattern, set to keep everything of [`LEN`] tokens.
fn full_patterns() -> Vec<Pattern> {
    vec![
        Pattern::FlexPrefill(FlexPrefillOptions { gamma: 1.0, ..Default::default() }),
        Pattern::XAttention(XAttentionOptions { threshold: Threshold::Scalar(1.0), ..Default::default() }),
        Pattern::VerticalSlash(Default::default()),
        Pattern::AShape(Default::default()),
        Pattern::TriShape(Default::default()),
        Pattern::SinkAndLocal(Default::default()),
        Pattern::BlockDiagonal(Default::default()),
    ]
}

#[test]
fn patterns_that_keep_everything_equal_dense() {
    let dir = random_checkpoint(7);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 8);
    let want = all_rows(&mut *model.session(LEN).unwrap(), &tokens, Pattern::Dense);
    for pattern in full_patterns() {
        let got = all_rows(&mut *model.session(LEN).unwrap(), &tokens, pattern.clone());
        let error = relative_error(&got, &want);
        assert!(error < 1e-5, "{pattern:?}: {error}");
        // In two chunks too: the second has a past.
        let mut session = model.session(LEN).unwrap();
        let mut got = all_rows(&mut *session, &tokens[..130], pattern.clone());
        got.extend(all_rows(&mut *session, &tokens[130..], pattern.clone()));
        let error = relative_error(&got, &want);
        assert!(error < 1e-5, "{pattern:?} in two chunks: {error}");
    }
}

#[test]
fn rows_come_in_the_order_asked_and_equal_those_of_all() {
    let dir = random_checkpoint(9);
    let model = load(&dir);
    let vocab = model.config().vocab_size;
    let tokens = random_tokens(40, 10);
    let all = all_rows(&mut *model.session(40).unwrap(), &tokens, Pattern::Dense);
    let rows = [39, 0, 17, 17];
    let options = ForwardOptions { logits: LogitRows::These(&rows), ..Default::default() };
    let (got, _) = model.session(40).unwrap().forward(&tokens, &options, &mut ()).unwrap();
    for (row, got) in rows.iter().zip(got.chunks(vocab)) {
        assert!(relative_error(got, &all[row * vocab..(row + 1) * vocab]) < 1e-5, "row {row}");
    }
    // More rows than tokens, and none at all.
    let many = vec![3; 100];
    let options = ForwardOptions { logits: LogitRows::These(&many), ..Default::default() };
    let (got, _) = model.session(40).unwrap().forward(&tokens, &options, &mut ()).unwrap();
    assert_eq!(got.len(), 100 * vocab);
    let options = ForwardOptions { logits: LogitRows::These(&[]), ..Default::default() };
    assert!(model.session(40).unwrap().forward(&tokens, &options, &mut ()).unwrap().0.is_empty());
    let options = ForwardOptions { logits: LogitRows::These(&[40]), ..Default::default() };
    let error = model.session(40).unwrap().forward(&tokens, &options, &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "logits must be rows below 40 tokens, got 40");
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    let dir = random_checkpoint(11);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 12);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut session = model.session(LEN + 1).unwrap();
            let mut logits = all_rows(&mut *session, &tokens, Pattern::Dense);
            logits.extend_from_slice(session.decode(5).unwrap());
            logits
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}

#[derive(Default)]
struct Watch {
    selections: Vec<(usize, Option<usize>)>,
    layers: Vec<(usize, f64)>,
}

impl Observer for Watch {
    fn selection(&mut self, layer: usize, selection: Selection<'_>) {
        let rows = match selection {
            Selection::Blocks(mask) => Some(mask.num_rows()),
            _ => None,
        };
        self.selections.push((layer, rows));
    }

    fn layer(&mut self, layer: usize, report: &LayerReport) {
        self.layers.push((layer, report.density));
    }
}

#[test]
fn the_observer_sees_every_layers_mask_and_report() {
    let dir = random_checkpoint(13);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 14);
    let mut watch = Watch::default();
    let options = ForwardOptions {
        pattern: Pattern::XAttention(XAttentionOptions { block_size: 64, ..Default::default() }),
        ..Default::default()
    };
    let (_, report) = model.session(LEN).unwrap().forward(&tokens, &options, &mut watch).unwrap();
    // 4 heads of 5 query blocks.
    assert_eq!(watch.selections, [(0, Some(20)), (1, Some(20))]);
    assert_eq!(watch.layers, [(0, report.layers[0].density), (1, report.layers[1].density)]);
    assert!(report.density() > 0.0 && report.density() <= 1.0);
    assert_eq!(report.tokens, LEN);
    let parts = report.search() + report.attention() + report.linear();
    assert!(parts <= report.total && report.tokens_per_second() > 0.0);
}

/// The block mask of every layer.
#[derive(Default)]
struct Masks(Vec<BlockMask>);

impl Observer for Masks {
    fn selection(&mut self, _: usize, selection: Selection<'_>) {
        match selection {
            Selection::Blocks(mask) => self.0.push(mask.clone()),
            _ => panic!("no blocks"),
        }
    }
}

#[test]
fn every_layer_and_head_has_its_own_threshold() {
    let dir = random_checkpoint(19);
    let model = load(&dir);
    let tokens = random_tokens(LEN, 20);
    let xattention = |threshold| {
        Pattern::XAttention(XAttentionOptions { block_size: 16, threshold, ..Default::default() })
    };
    let masks = |pattern, thresholds| {
        let mut masks = Masks::default();
        let options = ForwardOptions { pattern, thresholds, ..Default::default() };
        model.session(LEN).unwrap().forward(&tokens, &options, &mut masks).unwrap();
        masks.0
    };
    let rows = [vec![1.0, 0.3, 0.0, 0.8], vec![0.0, 0.9, 1.0, 0.5]];
    let table = ThresholdTable::new(&rows).unwrap();
    let got = masks(xattention(Threshold::Scalar(0.9)), Some(table));
    // The first layer does not know of the second's thresholds; what the second sees depends on the first's.
    let first = masks(xattention(Threshold::PerHead(rows[0].clone())), None);
    assert_eq!(got.len(), 2);
    assert!(got[0] == first[0] && got[1] != first[1]);
    let blocks = |mask: &BlockMask, head: usize| -> Vec<usize> {
        (0..mask.m_blocks(0)).map(|m| mask.row(0, head, m).len()).collect()
    };
    let all: Vec<usize> = (1..=19).collect();
    let forced: Vec<usize> = (0..19).map(|m| if m == 0 { 1 } else { 2 }).collect();
    for (mask, thresholds) in got.iter().zip(&rows) {
        for (head, &threshold) in thresholds.iter().enumerate() {
            let blocks: Vec<usize> = blocks(mask, head);
            assert_eq!(blocks == all, threshold == 1.0, "{thresholds:?}, head {head}: {blocks:?}");
            assert_eq!(blocks == forced, threshold == 0.0, "{thresholds:?}, head {head}: {blocks:?}");
        }
    }
}

#[test]
fn thresholds_must_fit_the_model_and_the_pattern() {
    let dir = random_checkpoint(19);
    let model = load(&dir);
    let refused = |pattern, rows: &[Vec<f32>]| {
        let thresholds = Some(ThresholdTable::new(rows).unwrap());
        let options = ForwardOptions { pattern, thresholds, ..Default::default() };
        model.session(9).unwrap().forward(&[1, 2], &options, &mut ()).unwrap_err().to_string()
    };
    let xattention = || Pattern::XAttention(Default::default());
    assert_eq!(
        refused(xattention(), &[vec![0.5; 4]]),
        "thresholds must be 2 layers of 4 heads, got 1 layers of 4 heads"
    );
    assert!(refused(xattention(), &[vec![0.5; 3], vec![0.5; 3]]).contains("got 2 layers of 3 heads"));
    assert_eq!(
        refused(Pattern::Dense, &[vec![0.5; 4], vec![0.5; 4]]),
        "thresholds must be given for xattention alone, got dense"
    );
}

#[test]
fn refuses_what_does_not_fit_and_leaves_the_context_alone() {
    let dir = random_checkpoint(15);
    let model = load(&dir);
    let mut session = model.session(10).unwrap();
    session.forward(&[1, 2, 3], &ForwardOptions::default(), &mut ()).unwrap();
    let mut forward = |tokens: &[u32], options: &ForwardOptions| {
        let error = session.forward(tokens, options, &mut ()).unwrap_err().to_string();
        assert_eq!(session.len(), 3);
        error
    };
    let default = ForwardOptions::default();
    assert_eq!(forward(&[], &default), "tokens must be at least 1 token, got none");
    assert_eq!(forward(&[1, 259], &default), "tokens must be ids below vocab_size (259), got 259");
    assert_eq!(
        forward(&[0; 8], &default),
        "the context takes 11 positions, but the session's capacity is 10"
    );
    let options = ForwardOptions { position_ids: Some(&[4096]), ..Default::default() };
    assert_eq!(
        forward(&[0], &options),
        "the context takes 4097 positions, but max_position_embeddings is 4096"
    );
    let options = ForwardOptions { position_ids: Some(&[u32::MAX]), ..Default::default() };
    assert!(forward(&[0], &options).contains("max_position_embeddings is 4096"));
    let options = ForwardOptions { position_ids: Some(&[4, 5]), ..Default::default() };
    assert_eq!(forward(&[0], &options), "position_ids must be one for each of 1 tokens, got 2");
    let pattern = Pattern::FlexPrefill(FlexPrefillOptions { gamma: 2.0, ..Default::default() });
    let options = ForwardOptions { pattern, ..Default::default() };
    assert!(forward(&[0], &options).contains("gamma must be in (0, 1], got 2"));
    assert!(session.decode(259).is_err());
    // It goes on as if nothing had been.
    let fresh = model.session(10).unwrap().forward(&[1, 2, 3, 4], &default, &mut ()).unwrap().0;
    assert!(relative_error(session.decode(4).unwrap(), &fresh) < 1e-5);

    assert!(matches!(model.session(0), Err(Error::InvalidArgument { arg: "capacity", .. })));
    assert!(matches!(model.session(usize::MAX), Err(Error::InvalidArgument { arg: "capacity", .. })));
    assert!(matches!(model.session(u32::MAX as usize), Err(Error::OutOfMemory { .. })));
}

#[test]
fn decode_stops_at_the_last_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["max_position_embeddings"] = json!(5);
    write_checkpoint(dir.path(), &config, &tensors(&config, 16), DType::F32);
    let model = load(&dir);
    let mut session = model.session(100).unwrap();
    session.forward(&[1, 2, 3, 4], &ForwardOptions::default(), &mut ()).unwrap();
    session.decode(1).unwrap();
    assert!(matches!(session.decode(1), Err(Error::TooLong { tokens: 6, limit: 5, .. })));
}

#[test]
fn activations_that_overflow_are_an_error_that_names_layer_and_token() {
    let mut tensors = tensors(&config(), 17);
    // Token 7 alone is large, after the first layer too large for f16.
    let down = &mut tensors.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().1;
    down.iter_mut().for_each(|x| *x = 60000.0 * x.signum());
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &tensors, DType::F32);
    let run = |dtype| {
        let model =
            model::load(dir.path(), &LoadOptions { dtype: Some(dtype), ..Default::default() }, &mut |_| ())
                .unwrap();
        model.session(4).unwrap().forward(&[7, 8], &ForwardOptions::default(), &mut ()).map(|_| ())
    };
    let error = run(DType::F16).unwrap_err().to_string();
    assert_eq!(
        error,
        "the activations after layer 0 are not finite at token 0 with f16 arithmetic; try bf16 or f32"
    );
    run(DType::F32).unwrap();
}

//! Passes over the cache from a row on, and the column mass they sum up.

use std::slice::from_ref;

use lacuna::Pattern;
use lacuna::pattern::SinkAndLocalOptions;
use lacuna_runner::model::{
    ColumnMass, ForwardOptions, LogitRows, PartialAttention, PassOptions, Reads, ShardMixer, Shards,
};

use super::{Setup, contents, forward, pass, positions};

pub fn a_pass_from_a_row_on_equals_one_after_those_rows_alone(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let ids = positions(context.len(), tokens.len());
    let mut whole = setup.filled();
    let mut all = Vec::new();
    for from in [0, 1, context.len() - 3, context.len()] {
        whole.truncate(context.len()).unwrap();
        let mut part = setup.session();
        part.append_kv(&whole.read_kv(from..context.len()).unwrap()).unwrap();
        let got = pass(&mut *whole, &tokens, &ids, Reads::Cached { from });
        let want = pass(&mut *part, &tokens, &ids, Reads::default());
        assert_eq!(got.logits, want.logits, "from {from}");
        assert_eq!(got.report.tokens, tokens.len());
        let (end, len) = (whole.len(), part.len());
        assert_eq!(whole.read_kv(from..end).unwrap(), part.read_kv(0..len).unwrap());
        all.push(got.logits);
    }
    // Rows that are left out are missed.
    assert!(all.windows(2).all(|w| w[0] != w[1]));
    // After the last one decoding reads all rows again.
    let mut same = setup.session();
    same.append_kv(&contents(&mut *whole).1).unwrap();
    assert_eq!(whole.decode(3).unwrap(), same.decode(3).unwrap());
}

/// In one layer, keys and values do not depend on what came before.
pub fn of_one_layer(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let from = context.len() / 2;
    let mut whole = setup.filled();
    let ids = positions(context.len(), tokens.len());
    let got = pass(&mut *whole, &tokens, &ids, Reads::Cached { from });
    let mut window = setup.session();
    let all: Vec<u32> = context[from..].iter().chain(&tokens).copied().collect();
    let ids = positions(from, all.len());
    let want = pass(&mut *window, &all, &ids, Reads::default());
    let first = want.logits.len() - got.logits.len();
    setup.assert_close(&got.logits, &want.logits[first..], "a window");
}

pub fn a_pattern_reads_from_a_row_on_too(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let pattern =
        Pattern::SinkAndLocal(SinkAndLocalOptions { global_window: 64, local_window: 64, block_size: 64 });
    // Long enough for blocks that are not read.
    let tokens: Vec<u32> = tokens.iter().cycle().take(context.len()).copied().collect();
    let from = 5;
    let mut whole = setup.filled();
    let mut part = setup.session();
    part.append_kv(&whole.read_kv(from..context.len()).unwrap()).unwrap();
    let ids = positions(context.len(), tokens.len());
    let forward = ForwardOptions { pattern, position_ids: Some(&ids), ..Default::default() };
    let options =
        PassOptions { forward: forward.clone(), reads: Reads::Cached { from }, ..Default::default() };
    let got = whole.pass(&tokens, options, &mut ()).unwrap();
    let (want, report) = part.forward(&tokens, &forward, &mut ()).unwrap();
    assert_eq!(got.logits, want);
    assert_eq!(got.report.density(), report.density());
    if context.len() > 128 {
        assert!(report.density() < 1.0);
    }
}

/// Keeps each layer's queries, and takes the only shard's result as it is.
struct Queries(Vec<Vec<f32>>);

impl ShardMixer for Queries {
    fn choose(
        &mut self,
        layer: usize,
        shards: usize,
        inputs: &mut dyn lacuna_runner::model::LayerInputs,
    ) -> lacuna_runner::Result<Vec<bool>> {
        assert_eq!((layer, shards), (self.0.len(), 1));
        self.0.push(inputs.q()?);
        Ok(vec![true])
    }

    fn mix(
        &mut self,
        _: usize,
        parts: &[Option<PartialAttention>],
        out: &mut [f32],
    ) -> lacuna_runner::Result<()> {
        out.copy_from_slice(&parts[0].as_ref().unwrap().out);
        Ok(())
    }
}

/// Probabilities in `f64` from queries and keys alone: of no softmax that the engines compute.
pub fn column_mass_is_what_columns_receive_in_all_layers(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let config = setup.model.config();
    let (past, len) = (context.len(), tokens.len());
    let (heads, heads_k, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let mut session = setup.filled();
    for (from, rows, columns) in [
        (0, 0..len, 0..past + len),
        (0, len - 1..len, 3..past),
        (7, 2..len, 7..past + len),
        (7, 0..len, 9..past + 1),
        (past - 1, 1..len - 1, past + 2..past + len),
        (past, 0..len, past..past + len),
        (0, 0..0, 0..past),
        (4, 0..len, 9..9),
    ] {
        session.truncate(past).unwrap();
        let column_mass = Some(ColumnMass { rows: rows.clone(), columns: columns.clone() });
        let options = PassOptions { column_mass, reads: Reads::Cached { from }, ..Default::default() };
        let got = session.pass(&tokens, options, &mut ()).unwrap().column_mass;
        assert_eq!(got.len(), columns.len());
        if columns == (from..past + len) {
            // Each row of each head and layer has one to give.
            let sum: f32 = got.iter().sum();
            let want = (rows.len() * heads * config.num_hidden_layers) as f32;
            assert!((sum / want - 1.0).abs() < 1e-3, "{sum} of {want}");
        }
        if from == past {
            // There is no shard of no rows to see the queries through.
            continue;
        }
        session.truncate(past).unwrap();
        let mut queries = Queries(Vec::new());
        let read = from..past;
        let shards = Shards { rows: from_ref(&read), joins_last: true, causal: false, mixer: &mut queries };
        pass(&mut *session, &tokens, &positions(past, len), Reads::Shards(shards));
        let mut mass = vec![0.0; past + len];
        for (layer, q) in queries.0.iter().enumerate() {
            let k = session.read_k(layer, 0..past + len).unwrap();
            for (row, head) in rows.clone().flat_map(|row| (0..heads).map(move |head| (row, head))) {
                let q = &q[(row * heads + head) * dim..][..dim];
                let weight = |key: usize| {
                    let k = &k[(key * heads_k + head / (heads / heads_k)) * dim..][..dim];
                    let dot: f64 = q.iter().zip(k).map(|(q, k)| *q as f64 * *k as f64).sum();
                    (dot / (dim as f64).sqrt()).exp()
                };
                let seen: Vec<f64> = (from..=past + row).map(weight).collect();
                let sum: f64 = seen.iter().sum();
                mass[from..].iter_mut().zip(&seen).for_each(|(mass, x)| *mass += x / sum);
            }
        }
        let want: Vec<f32> = mass[columns.clone()].iter().map(|&x| x as f32).collect();
        if rows.is_empty() || columns.is_empty() {
            assert_eq!(got, want);
        } else {
            setup.assert_close(&got, &want, &format!("column mass from {from}, of {rows:?} to {columns:?}"));
        }
    }
    // None asked for.
    session.truncate(past).unwrap();
    let output = session.pass(&tokens, PassOptions::default(), &mut ()).unwrap();
    assert!(output.column_mass.is_empty() && output.hidden_states.is_empty());
}

pub fn a_pass_without_logits_caches_the_same_rows(setup: &Setup) {
    let (_, tokens) = setup.tokens();
    let mut session = setup.filled();
    let mut other = setup.filled();
    forward(&mut *session, &tokens);
    let none = ForwardOptions { logits: LogitRows::These(&[]), ..Default::default() };
    let options = PassOptions { forward: none, ..Default::default() };
    assert!(other.pass(&tokens, options, &mut ()).unwrap().logits.is_empty());
    assert_eq!(contents(&mut *session), contents(&mut *other));
    assert_eq!(session.decode(1).unwrap(), other.decode(1).unwrap());
}

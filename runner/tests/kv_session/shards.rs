//! Passes over a context in shards.

use std::ops::Range;
use std::slice::from_ref;
use std::sync::mpsc::{Receiver, Sender, channel};

use lacuna_runner::model::{
    KvSession, LayerInputs, PartialAttention, PassOptions, Reads, ShardMixer, Shards,
};
use lacuna_runner::{Error, Result};

use super::{Setup, contents, forward, pass, positions};

type Parts = Vec<Option<PartialAttention>>;

/// Merges parts by their log-sum-exps, in `f64`.
fn merge(parts: &[Option<PartialAttention>], tokens: usize, out: &mut [f32]) {
    let parts: Vec<&PartialAttention> = parts.iter().flatten().collect();
    let heads = parts[0].softmax_lse.len() / tokens;
    let dim = out.len() / (heads * tokens);
    for (row, out) in out.chunks_exact_mut(dim).enumerate() {
        // Outputs lie by token, log-sum-exps by head.
        let (token, head) = (row / heads, row % heads);
        let lse: Vec<f64> = parts.iter().map(|part| part.softmax_lse[head * tokens + token] as f64).collect();
        let most = lse.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> =
            lse.iter().map(|lse| if most.is_finite() { (lse - most).exp() } else { 0.0 }).collect();
        let sum: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        for (i, out) in out.iter_mut().enumerate() {
            let mixed = parts.iter().zip(&weights).map(|(part, w)| w * part.out[row * dim + i] as f64);
            *out = (mixed.sum::<f64>() / sum) as f32;
        }
    }
}

/// Reads the shards that `chosen` says, all where it is empty, and keeps what it saw.
#[derive(Default)]
struct Exact {
    tokens: usize,
    chosen: Vec<bool>,
    /// Layer by layer.
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    parts: Vec<Parts>,
    /// Of which rows to see the keys.
    see: Range<usize>,
}

impl Exact {
    fn new(tokens: usize) -> Self {
        Self { tokens, ..Default::default() }
    }
}

impl ShardMixer for Exact {
    fn choose(&mut self, layer: usize, shards: usize, inputs: &mut dyn LayerInputs) -> Result<Vec<bool>> {
        assert_eq!(layer, self.q.len());
        self.q.push(inputs.q()?);
        self.k.push(inputs.k(self.see.clone())?);
        Ok(if self.chosen.is_empty() { vec![true; shards] } else { self.chosen.clone() })
    }

    fn mix(&mut self, layer: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
        assert_eq!(layer, self.parts.len());
        self.parts.push(parts.to_vec());
        merge(parts, self.tokens, out);
        Ok(())
    }
}

/// A pass over shards that are all here.
fn over(
    session: &mut dyn KvSession,
    tokens: &[u32],
    ids: &[u32],
    rows: &[Range<usize>],
    joins_last: bool,
) -> Vec<f32> {
    let mut mixer = Exact::new(tokens.len());
    let shards = Shards { rows, joins_last, causal: false, mixer: &mut mixer };
    pass(session, tokens, ids, Reads::Shards(shards)).logits
}

/// Where a context of `len` tokens is cut.
fn cuts(len: usize) -> Vec<Vec<Range<usize>>> {
    let even = |n: usize| (0..n).map(|i| i * len / n..(i + 1) * len / n).collect();
    vec![even(1), even(2), even(3), vec![0..1, 1..2, 2..len], vec![0..len - 1, len - 1..len]]
}

pub fn any_cut_reads_what_an_ordinary_pass_reads(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let ids = positions(context.len(), tokens.len());
    let mut session = setup.filled();
    let want = pass(&mut *session, &tokens, &ids, Reads::default()).logits;
    let all = contents(&mut *session);
    for rows in cuts(context.len()) {
        session.truncate(context.len()).unwrap();
        let got = over(&mut *session, &tokens, &ids, &rows, true);
        setup.assert_close(&got, &want, &format!("{rows:?}"));
        assert_eq!((session.len(), session.position_ids()), (all.0, &all.2[..]));
        // A pass that goes on from there reads the same rows as before.
        let further = forward(&mut *session, &tokens[..3]);
        session.truncate(all.0).unwrap();
        let mut shards = rows.clone();
        shards.last_mut().unwrap().end = all.0;
        let ids = positions(all.0, 3);
        let again = over(&mut *session, &tokens[..3], &ids, &shards, true);
        setup.assert_close(&again[again.len() - further.len()..], &further, "on from there");
    }
    // The rows after the last shard's first one are its own, those of earlier passes among them.
    session.truncate(context.len()).unwrap();
    let last = [0..10, 10..20];
    setup.assert_close(&over(&mut *session, &tokens, &ids, &last, true), &want, "rows of earlier passes");
    // Rows between shards are not read.
    session.truncate(context.len()).unwrap();
    let gap = [0..10, 20..30];
    let got = over(&mut *session, &tokens, &ids, &gap, true);
    session.truncate(context.len()).unwrap();
    session.keep(&(0..10).chain(20..context.len()).collect::<Vec<_>>()).unwrap();
    let want = pass(&mut *session, &tokens, &ids, Reads::default()).logits;
    setup.assert_close(&got, &want, "a gap");
}

pub fn decoding_over_shards_is_decoding(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let mut plain = setup.filled();
    let mut session = setup.filled();
    let rows = [0..10, 10..30, 30..context.len()];
    for (i, &token) in tokens.iter().take(5).enumerate() {
        let want = plain.decode(token).unwrap().to_vec();
        let ids = positions(context.len() + i, 1);
        let got = over(&mut *session, &[token], &ids, &rows, true);
        setup.assert_close(&got, &want, &format!("step {i}"));
    }
    assert_eq!((session.len(), session.position_ids()), (plain.len(), plain.position_ids()));
}

/// One of two ranks: gathers the other's parts, and merges those of both in the order of the ranks.
struct Peer {
    rank: usize,
    tokens: usize,
    to: Sender<Parts>,
    from: Receiver<Parts>,
}

impl ShardMixer for Peer {
    fn mix(&mut self, _: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
        self.to.send(parts.to_vec()).unwrap();
        let theirs = self.from.recv().unwrap();
        let both = if self.rank == 0 { [parts, &theirs].concat() } else { [&theirs[..], parts].concat() };
        merge(&both, self.tokens, out);
        Ok(())
    }
}

pub fn two_sessions_share_a_context(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let (len, middle) = (context.len(), context.len() / 3);
    let mut whole = setup.filled();
    let mut first = setup.session();
    first.append_kv(&whole.read_kv(0..middle).unwrap()).unwrap();
    let mut last = setup.session();
    last.append_kv(&whole.read_kv(middle..len).unwrap()).unwrap();
    let before = contents(&mut *first);
    // A question of several tokens, then one of one.
    let mut past = len;
    for tokens in [&tokens[..], &tokens[..1]] {
        let ids = positions(past, tokens.len());
        let want = pass(&mut *whole, tokens, &ids, Reads::default()).logits;
        let last_rows = [0..5, 5..last.len()];
        let (to_last, from_first) = channel();
        let (to_first, from_last) = channel();
        let run = |session: &mut dyn KvSession, rows: &[Range<usize>], mut peer: Peer| {
            let joins_last = peer.rank == 1;
            let shards = Shards { rows, joins_last, causal: false, mixer: &mut peer };
            pass(session, tokens, &ids, Reads::Shards(shards)).logits
        };
        let peers = [(to_last, from_last), (to_first, from_first)];
        let [at_first, at_last] = std::thread::scope(|scope| {
            let [peer_0, peer_1] = {
                let mut rank = 0..;
                peers.map(|(to, from)| Peer { rank: rank.next().unwrap(), tokens: tokens.len(), to, from })
            };
            let handle = scope.spawn(|| run(&mut *first, &[0..7, 7..middle], peer_0));
            let at_last = run(&mut *last, &last_rows, peer_1);
            [handle.join().unwrap(), at_last]
        });
        assert_eq!(at_first, at_last);
        setup.assert_close(&at_last, &want, "two sessions");
        // The tokens are the last session's.
        past += tokens.len();
        assert_eq!(last.len(), past - middle);
        assert_eq!(last.position_ids(), &whole.position_ids()[middle..]);
        assert_eq!(contents(&mut *first), before);
    }
    assert_eq!(last.read_kv(0..len - middle).unwrap(), whole.read_kv(middle..len).unwrap());
}

/// What softmax over these keys sums up to, from queries and keys.
fn lse(q: &[f32], keys: &[&[f32]]) -> f32 {
    let dot = |k: &[f32]| -> f64 { q.iter().zip(k).map(|(q, k)| *q as f64 * *k as f64).sum() };
    let sum: f64 = keys.iter().map(|k| (dot(k) / (q.len() as f64).sqrt()).exp()).sum();
    sum.ln() as f32
}

pub fn shards_are_read_causally_where_it_is_asked_for(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let config = setup.model.config();
    let (past, len) = (context.len(), tokens.len());
    let (heads, heads_k, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    // The first shard has fewer rows than the pass has tokens: the first tokens see nothing of it.
    let rows = [0..len - 2, len - 2..past - 1];
    for (causal, joins_last) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut session = setup.filled();
        let mut mixer = Exact { see: 0..past, ..Exact::new(len) };
        let shards = Shards { rows: &rows, joins_last, causal, mixer: &mut mixer };
        pass(&mut *session, &tokens, &positions(past, len), Reads::Shards(shards));
        let new = if joins_last { session.read_k(0, past..past + len).unwrap() } else { Vec::new() };
        let k = [&mixer.k[0][..], &new].concat();
        for (shard, mut rows) in rows.clone().into_iter().enumerate() {
            let joins = joins_last && shard == 1;
            if joins {
                rows.end = past + len;
            }
            let part = mixer.parts[0][shard].as_ref().unwrap();
            for (token, head) in (0..len).flat_map(|token| (0..heads).map(move |head| (token, head))) {
                let q = &mixer.q[0][(token * heads + head) * dim..][..dim];
                let seen = match causal || joins {
                    true => (rows.len() + token + 1).saturating_sub(len),
                    false => rows.len(),
                };
                let key = |row: usize| &k[(row * heads_k + head / (heads / heads_k)) * dim..][..dim];
                let keys: Vec<&[f32]> = rows.clone().take(seen).map(key).collect();
                let (got, want) = (part.softmax_lse[head * len + token], lse(q, &keys));
                assert!(
                    got == want || (got - want).abs() < 1e-3,
                    "causal {causal}, joins {joins_last}, shard {shard}, token {token}: {got}, not {want}"
                );
                let out = &part.out[(token * heads + head) * dim..][..dim];
                assert_eq!(out.iter().all(|&x| x == 0.0), seen == 0);
            }
        }
    }
}

pub fn what_the_mixer_does_not_choose_is_not_read(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let (past, middle) = (context.len(), context.len() / 2);
    for tokens in [&tokens[..], &tokens[..1]] {
        let ids = positions(past, tokens.len());
        let mut session = setup.filled();
        let rows = [0..10, 10..middle, middle..past];
        let mut mixer = Exact { chosen: vec![true, false, true], ..Exact::new(tokens.len()) };
        let shards = Shards { rows: &rows, joins_last: true, causal: false, mixer: &mut mixer };
        let got = pass(&mut *session, tokens, &ids, Reads::Shards(shards));
        assert!(got.report.density() < 1.0);
        for parts in &mixer.parts {
            assert_eq!(parts.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        }
        let mut other = setup.filled();
        other.keep(&(0..10).chain(middle..past).collect::<Vec<_>>()).unwrap();
        let want = pass(&mut *other, tokens, &ids, Reads::default()).logits;
        setup.assert_close(&got.logits, &want, "without a shard");
    }
    // One answer for each shard.
    let mut session = setup.filled();
    let before = contents(&mut *session);
    let mut mixer = Exact { chosen: vec![true], ..Exact::new(tokens.len()) };
    let shards = Shards { rows: &[0..10, 10..past], joins_last: true, causal: false, mixer: &mut mixer };
    let options = PassOptions { reads: Reads::Shards(shards), ..Default::default() };
    let refused = session.pass(&tokens, options, &mut ()).unwrap_err();
    assert_eq!(refused.to_string(), "the mixer's choice must be 2 answers, got 1");
    assert_eq!(contents(&mut *session), before);
}

pub fn the_mixer_sees_the_layers_inputs(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let config = setup.model.config();
    for tokens in [&tokens[..], &tokens[..1]] {
        let mut session = setup.filled();
        let mut mixer = Exact { see: 4..context.len() - 2, ..Exact::new(tokens.len()) };
        let rows = 0..context.len();
        let shards = Shards { rows: from_ref(&rows), joins_last: true, causal: false, mixer: &mut mixer };
        let ids = positions(context.len(), tokens.len());
        pass(&mut *session, tokens, &ids, Reads::Shards(shards));
        assert_eq!(mixer.q.len(), config.num_hidden_layers);
        for (layer, (q, k)) in mixer.q.iter().zip(&mixer.k).enumerate() {
            assert_eq!(q.len(), tokens.len() * config.num_attention_heads * config.head_dim);
            assert_eq!(*k, session.read_k(layer, mixer.see.clone()).unwrap());
        }
        assert_ne!(mixer.q[0], mixer.q[1]);
    }
}

/// Fails in the second layer.
struct Failing;

impl ShardMixer for Failing {
    fn mix(&mut self, layer: usize, _: &[Option<PartialAttention>], _: &mut [f32]) -> Result<()> {
        match layer {
            0 => Ok(()),
            _ => Err(Error::Rank { rank: 3, what: "has ended".to_owned() }),
        }
    }
}

pub fn what_the_mixer_cannot_do_is_handed_on(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let mut session = setup.filled();
    let before = contents(&mut *session);
    let rows = [0..5, 5..context.len()];
    let shards = Shards { rows: &rows, joins_last: true, causal: false, mixer: &mut Failing };
    let options = PassOptions { reads: Reads::Shards(shards), ..Default::default() };
    let refused = session.pass(&tokens, options, &mut ()).unwrap_err();
    assert_eq!(refused.to_string(), "rank 3 has ended");
    assert_eq!(contents(&mut *session), before);
    // Keys of tokens that do not exist.
    let end = context.len() + tokens.len();
    let mut mixer = Exact { see: 0..end + 1, ..Exact::new(tokens.len()) };
    let shards = Shards { rows: &rows, joins_last: true, causal: false, mixer: &mut mixer };
    let options = PassOptions { reads: Reads::Shards(shards), ..Default::default() };
    let refused = session.pass(&tokens, options, &mut ()).unwrap_err();
    assert_eq!(refused.to_string(), format!("rows must be rows of {end} tokens, got 0..{}", end + 1));
    assert_eq!(contents(&mut *session), before);
    assert_eq!(forward(&mut *session, &tokens), forward(&mut *setup.filled(), &tokens));
}

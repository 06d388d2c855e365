//! What is done to a session's rows between passes.

use half::bf16;
use lacuna::DType;
use lacuna_runner::generate::{Sampler, SamplingOptions};
use lacuna_runner::model::{ForwardOptions, KvSession, Reads};

use super::{Setup, contents, forward, pass, positions};

/// Rows that stay, that move down, alone and together, and the last one.
fn chosen(len: usize) -> Vec<usize> {
    let mut rows = vec![0, 1, 2, 5];
    rows.extend((20..len - 10).filter(|row| row % 3 != 0));
    rows.extend([len - 2, len - 1]);
    rows
}

pub fn kept_rows_are_those_appended_one_by_one(setup: &Setup) {
    let mut session = setup.filled();
    let len = session.len();
    for rows in [chosen(len), vec![], vec![len - 1], (0..len).collect(), (3..len).collect(), (0..7).collect()]
    {
        let mut session = setup.filled();
        let mut other = setup.session();
        for &row in &rows {
            other.append_kv(&session.read_kv(row..row + 1).unwrap()).unwrap();
        }
        session.keep(&rows).unwrap();
        assert_eq!(contents(&mut *session), contents(&mut *other), "{rows:?}");
        // The next token stands where it would have stood.
        other.continue_at(len as u32);
        assert_eq!(session.decode(9).unwrap(), other.decode(9).unwrap());
        assert_eq!(session.position_ids()[rows.len()..], [len as u32]);
    }
    // Twice, and once.
    session.keep(&chosen(len)).unwrap();
    session.keep(&[1, 4, 9]).unwrap();
    let mut other = setup.filled();
    other.keep(&[1, 4, 9].map(|row| chosen(len)[row])).unwrap();
    assert_eq!(contents(&mut *session), contents(&mut *other));
    assert_eq!(session.decode(9).unwrap(), other.decode(9).unwrap());
}

pub fn a_session_goes_on_after_what_is_kept_as_if_nothing_else_had_been_there(setup: &Setup) {
    let (_, tokens) = setup.tokens();
    let mut session = setup.filled();
    let len = session.len();
    let rows = chosen(len);
    let mut other = setup.session();
    for &row in &rows {
        other.append_kv(&session.read_kv(row..row + 1).unwrap()).unwrap();
    }
    session.keep(&rows).unwrap();
    let ids = positions(len, tokens.len());
    let got = forward(&mut *session, &tokens);
    let options = ForwardOptions { position_ids: Some(&ids), ..Default::default() };
    let want = other.forward(&tokens, &options, &mut ()).unwrap().0;
    assert_eq!(got, want);
    assert_eq!(contents(&mut *session), contents(&mut *other));
    // Rolled back to what was kept, the next question stands there again.
    session.truncate(rows.len()).unwrap();
    assert_eq!(forward(&mut *session, &tokens), got);
    // Further back it goes on from the last token there is.
    session.truncate(2).unwrap();
    session.decode(1).unwrap();
    assert_eq!(session.position_ids(), [0, 1, 2]);
}

pub fn duplicates_are_copies(setup: &Setup) {
    let mut session = setup.filled();
    let len = session.len();
    for rows in [2..9, 0..len, len - 1..len, 4..4] {
        session.truncate(len).unwrap();
        let mut other = setup.session();
        other.append_kv(&session.read_kv(0..len).unwrap()).unwrap();
        other.append_kv(&session.read_kv(rows.clone()).unwrap()).unwrap();
        session.duplicate(rows.clone()).unwrap();
        assert_eq!(session.len(), len + rows.len());
        assert_eq!(contents(&mut *session), contents(&mut *other));
        assert_eq!(session.decode(4).unwrap(), other.decode(4).unwrap());
    }
}

pub fn rows_move_from_session_to_session(setup: &Setup) {
    let (_, tokens) = setup.tokens();
    let mut session = setup.filled();
    let len = session.len();
    let rows = session.read_kv(0..len).unwrap();
    assert_eq!(rows.bytes.len(), len * session.kv_bytes_per_token());
    assert_eq!(rows.position_ids, positions(0, len));
    let mut other = setup.session();
    other.append_kv(&rows).unwrap();
    assert_eq!(other.read_kv(0..len).unwrap(), rows);
    assert_eq!(forward(&mut *session, &tokens), forward(&mut *other, &tokens));
    // None at all is some, too.
    let none = session.read_kv(3..3).unwrap();
    other.append_kv(&none).unwrap();
    assert_eq!((none.bytes.len(), none.position_ids.len(), other.len()), (0, 0, session.len()));
    // Into the middle of a context.
    other.truncate(5).unwrap();
    other.append_kv(&session.read_kv(8..11).unwrap()).unwrap();
    session.keep(&[0, 1, 2, 3, 4, 8, 9, 10]).unwrap();
    assert_eq!(contents(&mut *session), contents(&mut *other));
    other.decode(2).unwrap();
    assert_eq!(other.position_ids()[8], 11);
}

pub fn keys_are_those_of_the_rows(setup: &Setup) {
    let config = setup.model.config();
    let (heads, dim) = (config.num_key_value_heads, config.head_dim);
    let mut session = setup.filled();
    let rows = 3..session.len() - 1;
    let sent = session.read_kv(rows.clone()).unwrap();
    let values: Vec<f32> = match setup.model.dtype() {
        DType::F32 => sent.bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
        _ => sent.bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32()).collect(),
    };
    // A layer's keys, then its values, head by head.
    let len = rows.len();
    for layer in 0..config.num_hidden_layers {
        let keys = session.read_k(layer, rows.clone()).unwrap();
        let layer_values = &values[layer * 2 * heads * len * dim..];
        let want = (0..len).flat_map(|row| (0..heads).map(move |head| (head * len + row) * dim));
        assert!(keys.iter().eq(want.flat_map(|at| &layer_values[at..at + dim])), "layer {layer}");
    }
    assert!(session.read_k(0, 2..2).unwrap().is_empty());
    // Of the first layer's keys those of the same token differ by their rotation alone.
    let length = |k: &[f32]| k.iter().map(|x| x * x).sum::<f32>().sqrt();
    let mut other = setup.session();
    pass(&mut *other, &[7, 7], &[0, 900], Reads::default());
    let k = other.read_k(0, 0..2).unwrap();
    let (first, second) = k.split_at(heads * dim);
    assert!(first != second && (length(first) / length(second) - 1.0).abs() < 0.01);
}

pub fn the_next_token_stands_where_it_is_told(setup: &Setup) {
    let (context, tokens) = setup.tokens();
    let mut session = setup.filled();
    let mut other = setup.filled();
    let ids = positions(900, tokens.len());
    session.continue_at(900);
    let got = forward(&mut *session, &tokens);
    assert_eq!(got, forward_at(&mut *other, &tokens, &ids));
    assert_eq!(session.position_ids()[context.len()..], ids);
    // On from there.
    let want = forward_at(&mut *other, &[5], &[ids[ids.len() - 1] + 1]);
    setup.assert_close(session.decode(5).unwrap(), &want, "a step after it");
    // Again after a rollback to that place, not after one before it.
    session.truncate(context.len()).unwrap();
    assert_eq!(forward(&mut *session, &tokens), got);
    session.truncate(context.len() - 1).unwrap();
    session.decode(context[context.len() - 1]).unwrap();
    session.decode(6).unwrap();
    assert_eq!(session.position_ids()[context.len() - 1..], positions(context.len() - 1, 2));
    // An empty session, and another place for the same token.
    session.truncate(0).unwrap();
    session.continue_at(3);
    session.continue_at(40);
    session.decode(1).unwrap();
    session.decode(1).unwrap();
    assert_eq!(session.position_ids(), [40, 41]);
}

fn forward_at(session: &mut dyn KvSession, tokens: &[u32], ids: &[u32]) -> Vec<f32> {
    let options = ForwardOptions { position_ids: Some(ids), ..Default::default() };
    session.forward(tokens, &options, &mut ()).unwrap().0
}

/// A device begins with the token it chose before it is asked for; what is done to the rows then makes that another step.
pub fn a_step_that_was_begun_is_forgotten(setup: &Setup) {
    type Change = fn(&mut dyn KvSession);
    let changes: [(&str, Change); 7] = [
        ("keep", |session| {
            let rows: Vec<usize> = (0..session.len()).filter(|row| row % 2 == 0).collect();
            session.keep(&rows).unwrap();
        }),
        ("duplicate", |session| session.duplicate(2..8).unwrap()),
        ("append", |session| {
            let rows = session.read_kv(1..4).unwrap();
            session.append_kv(&rows).unwrap();
        }),
        ("continue", |session| session.continue_at(1000)),
        ("truncate", |session| session.truncate(10).unwrap()),
        ("pass", |session| {
            pass(session, &[4, 5], &[70, 80], Reads::Cached { from: 3 });
        }),
        ("read", |session| {
            session.read_kv(0..2).unwrap();
        }),
    ];
    let choose = |session: &mut dyn KvSession, mut token: u32, steps: usize| {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        for _ in 0..steps {
            token = session.next_token(token, &mut sampler, &[]).unwrap();
        }
        token
    };
    let mut ahead = setup.filled();
    let mut other = setup.filled();
    let len = ahead.len();
    for (what, change) in changes {
        ahead.truncate(len).unwrap();
        other.truncate(len).unwrap();
        // Three steps: the third of them is replayed, and the fourth is begun.
        let token = choose(&mut *ahead, 11, 3);
        let mut tokens = vec![11];
        tokens.push(choose(&mut *other, 11, 1));
        tokens.push(choose(&mut *other, tokens[1], 1));
        other.truncate(len).unwrap();
        for &token in &tokens {
            other.decode(token).unwrap();
        }
        change(&mut *ahead);
        change(&mut *other);
        // The very token that was begun.
        assert_eq!(ahead.decode(token).unwrap(), other.decode(token).unwrap(), "{what}");
        assert_eq!(contents(&mut *ahead), contents(&mut *other), "{what}");
        assert_eq!(choose(&mut *ahead, 12, 2), choose(&mut *other, 12, 2), "{what}");
        ahead.truncate(0).unwrap();
        other.truncate(0).unwrap();
        forward(&mut *ahead, &setup.tokens().0);
        forward(&mut *other, &setup.tokens().0);
    }
}

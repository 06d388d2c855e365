//! What does not exist is refused in a sentence, and the session is as it was.

use std::ops::Range;

use lacuna::Pattern;
use lacuna::pattern::SinkAndLocalOptions;
use lacuna_runner::comm::Alone;
use lacuna_runner::model::{
    ColumnMass, ForwardOptions, KvRows, KvSession, PartialAttention, PassOptions, Reads, ShardMixer, Shards,
};

use super::{Setup, contents};

/// Is not asked.
struct Never;

impl ShardMixer for Never {
    fn mix(&mut self, _: usize, _: &[Option<PartialAttention>], _: &mut [f32]) -> lacuna_runner::Result<()> {
        panic!("a pass that is refused was begun")
    }
}

pub fn a_refusal_is_a_sentence_and_changes_nothing(setup: &Setup) {
    let (_, tokens) = setup.tokens();
    let mut session = setup.filled();
    let (len, capacity) = (session.len(), session.capacity());
    session.continue_at(500);
    let before = contents(&mut *session);
    let mut other = setup.filled();
    other.continue_at(500);
    let want = other.decode(8).unwrap().to_vec();
    let check = |session: &mut dyn KvSession, refused: String, expected: &str| {
        assert_eq!(refused, expected);
        assert_eq!(contents(session), before, "{expected}");
        // The next token stands where it would have stood.
        assert_eq!(session.decode(8).unwrap(), want, "{expected}");
        assert_eq!(session.position_ids()[len], 500, "{expected}");
        session.truncate(len).unwrap();
    };

    // Rows.
    let refuse_rows = |session: &mut dyn KvSession, rows: Range<usize>| -> [String; 3] {
        [
            session.read_kv(rows.clone()).unwrap_err().to_string(),
            session.duplicate(rows.clone()).unwrap_err().to_string(),
            session.read_k(1, rows).unwrap_err().to_string(),
        ]
    };
    #[allow(clippy::reversed_empty_ranges)] // that is what is refused
    for rows in [0..len + 1, len + 1..len + 1, 5..4] {
        for refused in refuse_rows(&mut *session, rows.clone()) {
            let expected = format!("rows must be rows of {len} cached tokens, got {rows:?}");
            check(&mut *session, refused, &expected);
        }
    }
    let refused = session.read_k(2, 0..1).unwrap_err().to_string();
    check(&mut *session, refused, "layer must be below 2 layers, got 2");
    let refused = session.keep(&[0, 3, 3]).unwrap_err().to_string();
    check(&mut *session, refused, "rows must be ascending, got 3 after 3");
    let refused = session.keep(&[0, len]).unwrap_err().to_string();
    check(&mut *session, refused, &format!("rows must be below {len} cached tokens, got {len}"));
    let refused = session.truncate(len + 1).unwrap_err().to_string();
    check(&mut *session, refused, &format!("len must be at most {len} cached tokens, got {}", len + 1));
    let full = |tokens: usize| {
        format!("the context takes {tokens} positions, but the session's capacity is {capacity}")
    };
    let all = session.read_kv(0..len).unwrap();
    let mut small = setup.model.session(2 * len - 1).unwrap();
    small.append_kv(&all).unwrap();
    let full_of = |message: String| message.replace(&capacity.to_string(), &(2 * len - 1).to_string());
    assert_eq!(small.append_kv(&all).unwrap_err().to_string(), full_of(full(2 * len)));
    assert_eq!(small.duplicate(0..len).unwrap_err().to_string(), full_of(full(2 * len)));
    assert_eq!(contents(&mut *small), (len, all.clone(), all.position_ids.clone()));
    let KvRows { position_ids, bytes } = all;
    let cut = KvRows { position_ids: position_ids.clone(), bytes: bytes[1..].to_vec() };
    let refused = session.append_kv(&cut).unwrap_err().to_string();
    let expected =
        format!("keys and values must be {} bytes, of this model, got {}", bytes.len(), bytes.len() - 1);
    check(&mut *session, refused, &expected);
    let short = KvRows { position_ids: position_ids[1..].to_vec(), bytes };
    assert!(session.append_kv(&short).is_err());

    // Passes.
    let refuse = |session: &mut dyn KvSession, options: PassOptions, expected: &str| {
        let refused = session.pass(&tokens, options, &mut ()).unwrap_err().to_string();
        check(session, refused, expected);
    };
    let reads = |reads| PassOptions { reads, ..Default::default() };
    let expected = format!("from must be at most {len} cached tokens, got {}", len + 1);
    refuse(&mut *session, reads(Reads::Cached { from: len + 1 }), &expected);
    let sparse = Pattern::SinkAndLocal(SinkAndLocalOptions { block_size: 64, ..Default::default() });
    let under = |reads| PassOptions {
        forward: ForwardOptions { pattern: sparse.clone(), ..Default::default() },
        reads,
        ..Default::default()
    };
    let expected = "pattern must be dense over ranks and shards, got sink_and_local";
    refuse(&mut *session, under(Reads::Ring(&Alone)), expected);
    let expected_ring = format!("the session must be empty before a ring's pass, got {len}");
    refuse(&mut *session, reads(Reads::Ring(&Alone)), &expected_ring);

    let shards = |rows: &'static [Range<usize>], joins_last| {
        Reads::Shards(Shards { rows, joins_last, causal: false, mixer: Box::leak(Box::new(Never)) })
    };
    refuse(&mut *session, under(shards(&[0..5, 5..9], true)), expected);
    const FAR: usize = 1 << 20;
    #[allow(clippy::reversed_empty_ranges, clippy::single_range_in_vec_init)] // lists of ranges, some refused
    for (rows, joins_last) in [
        (&[0..5, 4..9][..], false),
        (&[5..9, 0..5], true),
        (&[3..3], false),
        (&[0..5, 9..6], false),
        (&[0..5, 5..FAR], false),
        (&[], true),
    ] {
        let expected =
            format!("shards must be runs of {len} cached tokens, one after the other, got {rows:?}");
        refuse(&mut *session, reads(shards(rows, joins_last)), &expected);
    }

    let mass = |rows, columns, reads| PassOptions {
        column_mass: Some(ColumnMass { rows, columns }),
        reads,
        ..Default::default()
    };
    let n = tokens.len();
    refuse(
        &mut *session,
        mass(0..1, 0..1, shards(&[0..5, 5..9], false)),
        "column_mass must be none over ranks and shards, got some",
    );
    #[allow(clippy::reversed_empty_ranges)] // that is what is refused
    for rows in [0..n + 1, 3..2] {
        let expected = format!("column_mass must be rows of {n} tokens, got {rows:?}");
        refuse(&mut *session, mass(rows, 0..1, Reads::default()), &expected);
    }
    #[allow(clippy::reversed_empty_ranges)] // that is what is refused
    for columns in [0..9, 4..len + n + 1, 9..8] {
        let expected = format!("column_mass must be columns of rows 4 to {}, got {columns:?}", len + n);
        refuse(&mut *session, mass(0..n, columns, Reads::Cached { from: 4 }), &expected);
    }

    // Where the next token would stand beyond all positions.
    session.continue_at(u32::MAX);
    for refused in
        [session.decode(1).map(|_| ()), session.pass(&tokens, reads(Reads::default()), &mut ()).map(|_| ())]
    {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("max_position_embeddings is 4096"), "{refused}");
    }
    assert_eq!(contents(&mut *session), before);
}

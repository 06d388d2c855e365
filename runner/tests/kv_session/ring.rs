//! Ring attention.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use lacuna_runner::comm::{Alone, Communicator};
use lacuna_runner::model::Reads;
use lacuna_runner::{Error, Result};

use super::{Setup, contents, forward, pass, positions};

pub fn a_ring_of_one_is_an_ordinary_pass(setup: &Setup) {
    let (_, tokens) = setup.tokens();
    let ids = positions(30, tokens.len());
    let mut ring = setup.session();
    let mut plain = setup.session();
    let got = pass(&mut *ring, &tokens, &ids, Reads::Ring(&Alone));
    let want = pass(&mut *plain, &tokens, &ids, Reads::default());
    setup.assert_close(&got.logits, &want.logits, "a ring of one");
    assert_eq!(ring.position_ids(), plain.position_ids());
    setup.assert_close(ring.decode(3).unwrap(), plain.decode(3).unwrap(), "a step after it");
}

/// A rank among threads.
struct Rank {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl Communicator for Rank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.to.len()
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        self.to[to].send(message.to_vec()).map_err(|_| ended(to))
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        self.from[from].lock().unwrap().recv().map_err(|_| ended(from))
    }
}

fn ended(rank: usize) -> Error {
    Error::Rank { rank, what: "has ended".to_owned() }
}

fn ranks(size: usize) -> Vec<Rank> {
    let mut ranks: Vec<Rank> =
        (0..size).map(|rank| Rank { rank, to: Vec::new(), from: Vec::new() }).collect();
    for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
        let (sender, receiver) = channel();
        ranks[from].to.push(sender);
        ranks[to].from.push(Mutex::new(receiver));
    }
    ranks
}

pub fn ranks_of_a_ring_have_the_rows_of_one_pass(setup: &Setup) {
    let (tokens, _) = setup.tokens();
    let mut plain = setup.session();
    let all = positions(0, tokens.len());
    let want = pass(&mut *plain, &tokens, &all, Reads::default()).logits;
    let vocab = setup.model.config().vocab_size;
    // Of unequal lengths; the last rank has a single token.
    for ends in [vec![40, tokens.len()], vec![30, 33, tokens.len() - 1, tokens.len()]] {
        let ranks = ranks(ends.len());
        std::thread::scope(|scope| {
            for rank in ranks {
                let (tokens, all, want, ends) = (&tokens, &all, &want, &ends);
                let start = rank.rank.checked_sub(1).map_or(0, |before| ends[before]);
                let end = ends[rank.rank];
                let mut plain = setup.session();
                scope.spawn(move || {
                    let mut session = setup.session();
                    let got =
                        pass(&mut *session, &tokens[start..end], &all[start..end], Reads::Ring(&rank)).logits;
                    setup.assert_close(&got, &want[start * vocab..end * vocab], "a rank");
                    assert_eq!(session.position_ids(), &all[start..end]);
                    // Its rows are those of one pass.
                    forward(&mut *plain, tokens);
                    for layer in 0..2 {
                        let got = session.read_k(layer, 0..end - start).unwrap();
                        setup.assert_close(&got, &plain.read_k(layer, start..end).unwrap(), "keys");
                    }
                });
            }
        });
    }
    // A rank that ends is named, and the others are as they were.
    let [first, second]: [Rank; 2] = ranks(2).try_into().map_err(|_| ()).unwrap();
    drop(first);
    let mut session = setup.session();
    let options = super::PassOptions { reads: Reads::Ring(&second), ..Default::default() };
    let error = session.pass(&tokens, options, &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "rank 0 has ended");
    assert_eq!(contents(&mut *session).0, 0);
    assert_eq!(forward(&mut *session, &tokens), forward(&mut *setup.session(), &tokens));
}

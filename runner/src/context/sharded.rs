//! A context in shards, and a session over it: Star Attention's second phase.

use std::ops::Range;

use super::deal::{blocks, deal};
use super::mix::{Exact, Heads};
use super::prefill::Run;
use crate::comm::Communicator;
use crate::generate::Sampler;
use crate::model::{
    ForwardOptions, ForwardReport, KvRows, KvSession, LogitRows, Observer, PassOptions, Reads, Session,
    ShardMixer, Shards,
};
use crate::{Error, Result};

/// The rank whose logits count and whose tokens all ranks take, so that they agree even where their processors round
/// differently.
const SPEAKER: usize = 0;

/// The shards of a context that lie on one rank.
pub(super) struct LocalShards<'m> {
    /// Holds them, and nothing else.
    pub session: Box<dyn KvSession + 'm>,
    /// The rows of each.
    pub rows: Vec<Range<usize>>,
    /// The shards on the ranks before.
    pub first_shard: usize,
    /// Whether the context's last shard is among them.
    pub has_last: bool,
}

/// Rows that a rank needs besides its shards: on that of the last shard the query and what follows it stay, on the others they
/// pass through, in passes of any length.
pub(super) fn room(run: &Run, has_last: bool) -> usize {
    if has_last { run.room() } else { run.query.len().max(run.options.max_new_tokens) }
}

impl<'m> LocalShards<'m> {
    /// The exact session over them. One rank goes shard by shard too, so that its numbers are those of any number of ranks; but
    /// where decoding is recorded it reads all shards as one, which is the same up to rounding, and much faster.
    pub fn into_exact_session(self, run: &mut Run<'m, '_>, position: usize) -> Result<Box<dyn Session + 'm>> {
        if run.comm.world_size() > 1 || !self.session.records_decoding() {
            let mixer = Exact { comm: run.comm, heads: Heads::new(run.config()) };
            return self.into_session(run, position, Box::new(mixer), false);
        }
        let Self { mut session, .. } = self;
        run.keeps(&*session);
        session.continue_at(checked(position)?);
        Ok(session)
    }

    /// A session over them, whose query starts at `position`.
    pub fn into_session(
        self,
        run: &mut Run<'m, '_>,
        position: usize,
        mixer: Box<dyn ShardMixer + Send + 'm>,
        causal: bool,
    ) -> Result<Box<dyn Session + 'm>> {
        let Self { session, rows, has_last, .. } = self;
        run.keeps(&*session);
        let lens = run.comm.all_gather(&(session.len() as u64).to_le_bytes())?;
        let len = |bytes: &Vec<u8>| <[u8; 8]>::try_from(&bytes[..]).map_or(0, u64::from_le_bytes) as usize;
        Ok(Box::new(ShardedSession {
            comm: run.comm,
            session,
            rows,
            has_last,
            causal,
            mixer,
            context_len: lens.iter().map(len).sum(),
            room: run.room(),
            start: checked(position)?,
            position_ids: Vec::new(),
            logits: Vec::new(),
        }))
    }
}

fn checked(position: usize) -> Result<u32> {
    u32::try_from(position).map_err(|_| Error::invalid("positions", "below 2^32", position))
}

/// A context that lies in shards on all ranks. What follows it lies on the rank of the last shard, behind it.
struct ShardedSession<'m> {
    comm: &'m dyn Communicator,
    session: Box<dyn KvSession + 'm>,
    rows: Vec<Range<usize>>,
    has_last: bool,
    causal: bool,
    mixer: Box<dyn ShardMixer + Send + 'm>,
    /// Tokens of all shards.
    context_len: usize,
    /// Tokens there is room for after them.
    room: usize,
    /// The position of the first of these.
    start: u32,
    /// Of the tokens after the context.
    position_ids: Vec<u32>,
    /// Of the last token, from [`Session::decode`].
    logits: Vec<f32>,
}

impl ShardedSession<'_> {
    /// A pass on all ranks; the logits on the speaker alone.
    fn pass(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        if self.len().saturating_add(tokens.len()) > self.capacity() {
            let (what, limit_name) = ("the context", "the session's capacity");
            let tokens = self.len().saturating_add(tokens.len());
            return Err(Error::TooLong { what, tokens, limit_name, limit: self.capacity() });
        }
        let next = self.position_ids.last().map_or(self.start, |&p| p.saturating_add(1));
        let position_ids = match options.position_ids {
            Some(position_ids) => position_ids.to_vec(),
            None => (next..).take(tokens.len()).collect(),
        };
        let logits = if self.comm.rank() == SPEAKER { options.logits } else { LogitRows::These(&[]) };
        let forward = ForwardOptions { position_ids: Some(&position_ids), logits, ..options.clone() };
        let Self { session, rows, has_last, causal, mixer, .. } = self;
        let shards = Shards { rows, joins_last: *has_last, causal: *causal, mixer: &mut **mixer };
        let options = PassOptions { forward, reads: Reads::Shards(shards), ..Default::default() };
        let output = session.pass(tokens, options, observer)?;
        self.position_ids.extend_from_slice(&position_ids);
        Ok((output.logits, output.report))
    }
}

impl Session for ShardedSession<'_> {
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        let (logits, report) = self.pass(tokens, options, observer)?;
        let logits = self.comm.broadcast(SPEAKER, bytemuck::cast_slice(&logits))?;
        Ok((bytemuck::allocation::pod_collect_to_vec(&logits), report))
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        (self.logits, _) = self.forward(&[token], &ForwardOptions::default(), &mut ())?;
        Ok(&self.logits)
    }

    fn next_token(&mut self, token: u32, sampler: &mut Sampler, seen: &[u32]) -> Result<u32> {
        let (logits, _) = self.pass(&[token], &ForwardOptions::default(), &mut ())?;
        let mut next = Vec::new();
        if self.comm.rank() == SPEAKER {
            next.extend_from_slice(&sampler.sample(&logits, seen)?.to_le_bytes());
        }
        let next = self.comm.broadcast(SPEAKER, &next)?;
        let malformed = |_| Error::Rank { rank: SPEAKER, what: "sent something other than a token".into() };
        Ok(u32::from_le_bytes(next.as_slice().try_into().map_err(malformed)?))
    }

    /// The context itself cannot be cut: its tokens lie on all ranks.
    fn truncate(&mut self, len: usize) -> Result<()> {
        if len < self.context_len || len > self.len() {
            let expected = format!("from {} tokens of context to {}", self.context_len, self.len());
            return Err(Error::invalid("len", expected, len));
        }
        let after = len - self.context_len;
        if self.has_last {
            self.session.truncate(self.session.len() - (self.position_ids.len() - after))?;
        }
        self.position_ids.truncate(after);
        Ok(())
    }

    fn len(&self) -> usize {
        self.context_len + self.position_ids.len()
    }

    fn capacity(&self) -> usize {
        self.context_len + self.room
    }
}

/// [`Run::share`].
pub(super) fn share<'m>(
    run: &mut Run<'m, '_>,
    session: Option<Box<dyn KvSession + 'm>>,
    shard: usize,
    position: usize,
) -> Result<Box<dyn Session + 'm>> {
    let (rank, world_size) = (run.comm.rank(), run.comm.world_size());
    let mut session = session;
    if let (1, Some(session)) = (world_size, session.take_if(|_| world_size == 1)) {
        let rows = blocks(session.len(), shard).collect();
        return LocalShards { session, rows, first_shard: 0, has_last: true }
            .into_exact_session(run, position);
    }
    // What rank 0 knows: how many tokens there are, and where the query starts.
    let header = [session.as_ref().map_or(0, |session| session.len()) as u64, position as u64];
    let header = run.comm.broadcast(0, bytemuck::cast_slice(&header))?;
    let header: [u64; 2] = bytemuck::try_pod_read_unaligned(&header)
        .map_err(|_| Error::Rank { rank: 0, what: "sent something other than two numbers".into() })?;
    let [tokens, position] = header.map(|x| x as usize);
    let shards: Vec<_> = blocks(tokens, shard).collect();
    let of_rank = |rank| &shards[deal(shards.len(), rank, world_size)];
    let mine = of_rank(rank);
    let first_shard = deal(shards.len(), rank, world_size).start;
    let has_last = mine.last().is_some_and(|rows| rows.end == tokens);
    let local: usize = mine.iter().map(Range::len).sum();
    let mut parts = Vec::with_capacity(mine.len());
    if let Some(session) = &mut session {
        for to in 1..world_size {
            of_rank(to)
                .iter()
                .try_for_each(|rows| run.comm.send(to, &session.read_kv(rows.clone())?.to_bytes()))?;
        }
        for rows in mine {
            parts.push(session.read_kv(rows.clone())?);
        }
    } else {
        for _ in mine {
            parts.push(KvRows::from_bytes(&run.comm.recv(0)?)?);
        }
    }
    // The memory of all tokens goes before that of this rank's comes.
    drop(session);
    let mut session = run.session(local + room(run, has_last))?;
    parts.iter().try_for_each(|part| session.append_kv(part))?;
    let rows = blocks(local, shard).collect();
    LocalShards { session, rows, first_shard, has_last }.into_exact_session(run, position)
}

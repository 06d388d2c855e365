//! A model that notes what its sessions are asked to do.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use lacuna::DType;
use lacuna_runner::Result;
use lacuna_runner::generate::Sampler;
use lacuna_runner::model::{
    Config, ForwardOptions, ForwardReport, GenerationConfig, KvRows, KvSession, Model, Observer, PassOptions,
    PassOutput, Session,
};

/// What a session was asked to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    pub capacity: usize,
    /// The most tokens it has held.
    pub most: usize,
    /// The position of each token cached now.
    pub position_ids: Vec<u32>,
    /// The tokens of each pass.
    pub passes: Vec<Vec<u32>>,
}

/// A model, watched.
pub struct Watched<'a> {
    model: &'a dyn Model,
    logs: Mutex<Vec<Log>>,
}

impl<'a> Watched<'a> {
    pub fn new(model: &'a dyn Model) -> Self {
        Self { model, logs: Mutex::default() }
    }

    /// A log for each session, in the order in which they were made.
    pub fn logs(&self) -> MutexGuard<'_, Vec<Log>> {
        self.logs.lock().unwrap()
    }
}

impl Model for Watched<'_> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn generation_config(&self) -> &GenerationConfig {
        self.model.generation_config()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn KvSession + '_>> {
        let session = self.model.session(capacity)?;
        let mut logs = self.logs();
        logs.push(Log { capacity, ..Default::default() });
        Ok(Box::new(WatchedSession { session, watched: self, log: logs.len() - 1 }))
    }
}

struct WatchedSession<'m> {
    session: Box<dyn KvSession + 'm>,
    watched: &'m Watched<'m>,
    log: usize,
}

impl WatchedSession<'_> {
    fn note<R>(&mut self, tokens: Option<&[u32]>, result: Result<R>) -> Result<R> {
        let mut logs = self.watched.logs();
        let log = &mut logs[self.log];
        log.passes.extend(tokens.map(<[u32]>::to_vec));
        log.most = log.most.max(self.session.len());
        log.position_ids = self.session.position_ids().to_vec();
        result
    }
}

impl Session for WatchedSession<'_> {
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        let result = self.session.forward(tokens, options, observer);
        self.note(Some(tokens), result)
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.watched.logs()[self.log].most += 1;
        self.session.decode(token)
    }

    fn next_token(&mut self, token: u32, sampler: &mut Sampler, seen: &[u32]) -> Result<u32> {
        let result = self.session.next_token(token, sampler, seen);
        self.note(Some(&[token]), result)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        let result = self.session.truncate(len);
        self.note(None, result)
    }

    fn len(&self) -> usize {
        self.session.len()
    }

    fn capacity(&self) -> usize {
        self.session.capacity()
    }
}

impl KvSession for WatchedSession<'_> {
    fn pass(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput> {
        let result = self.session.pass(tokens, options, observer);
        self.note(Some(tokens), result)
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let result = self.session.keep(rows);
        self.note(None, result)
    }

    fn duplicate(&mut self, rows: Range<usize>) -> Result<()> {
        let result = self.session.duplicate(rows);
        self.note(None, result)
    }

    fn read_kv(&mut self, rows: Range<usize>) -> Result<KvRows> {
        self.session.read_kv(rows)
    }

    fn append_kv(&mut self, rows: &KvRows) -> Result<()> {
        let result = self.session.append_kv(rows);
        self.note(None, result)
    }

    fn read_k(&mut self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        self.session.read_k(layer, rows)
    }

    fn position_ids(&self) -> &[u32] {
        self.session.position_ids()
    }

    fn continue_at(&mut self, position: u32) {
        self.session.continue_at(position);
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.session.kv_bytes_per_token()
    }
}

//! That work goes on, on standard error.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lacuna_runner::model::{LayerReport, LoadProgress, Observer};

use super::terminal;

/// `--progress`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, nothing elsewhere.
    #[default]
    Auto,
    /// A bar.
    Bar,
    /// A line now and then.
    Plain,
    /// Nothing.
    None,
}

/// Time between two lines of [`ProgressMode::Plain`].
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two frames of a bar.
const TICK: Duration = Duration::from_millis(100);

/// Shows the tasks of one command.
pub struct Progress {
    mode: ProgressMode,
}

impl Progress {
    /// Settles what `Auto` means here.
    pub fn new(mode: ProgressMode) -> Self {
        let mode = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::None,
            mode => mode,
        };
        Self { mode }
    }

    /// Shows a task of `total` steps until it is dropped.
    pub fn task(&self, label: impl Into<String>, total: u64) -> Task {
        let label = label.into();
        let bar = (self.mode == ProgressMode::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg:32} {wide_bar} {elapsed:>4}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(label.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        Task { bar, label, total, plain: self.mode == ProgressMode::Plain, last: Instant::now() }
    }
}

/// One task being shown.
pub struct Task {
    bar: Option<ProgressBar>,
    label: String,
    total: u64,
    plain: bool,
    last: Instant,
}

impl Task {
    /// `done` steps of the total are done; after the last one the bar goes, and leaves the line to others.
    pub fn set(&mut self, done: u64) {
        match &self.bar {
            Some(bar) if done < self.total => bar.set_position(done),
            Some(bar) => bar.finish_and_clear(),
            None => (),
        }
        if self.plain && self.last.elapsed() >= PLAIN_INTERVAL {
            terminal::say(&format!("{}: {done}/{}", self.label, self.total));
            self.last = Instant::now();
        }
    }

    /// Follows the loading of weights.
    pub fn load(&mut self, progress: LoadProgress) {
        self.total = progress.total_bytes;
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total_bytes);
        }
        self.set(progress.bytes);
    }
}

/// Each layer of a forward pass is a step.
impl Observer for Task {
    fn layer(&mut self, layer: usize, _: &LayerReport) {
        self.set(layer as u64 + 1);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! That work goes on, on standard error.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lacuna_runner::context;
use lacuna_runner::model::{LayerReport, LoadProgress, Observer};
use lacuna_runner::report::format_duration;

use super::terminal;

/// `--progress`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal; elsewhere nothing, but a line now and then of commands that go through many samples.
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
/// Time between two lines about samples, where nothing was said about progress.
const SAMPLES_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two frames of a bar.
const TICK: Duration = Duration::from_millis(100);

/// Shows the tasks of one command.
pub struct Progress {
    mode: ProgressMode,
    /// How often a line about samples comes, where no bar does.
    samples_interval: Option<Duration>,
}

impl Progress {
    /// Settles what `Auto` means here.
    pub fn new(mode: ProgressMode) -> Self {
        let samples_interval = match mode {
            ProgressMode::Auto => Some(SAMPLES_INTERVAL),
            ProgressMode::Plain => Some(PLAIN_INTERVAL),
            ProgressMode::Bar | ProgressMode::None => None,
        };
        let mode = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::None,
            mode => mode,
        };
        Self { mode, samples_interval }
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

impl Progress {
    /// Shows that samples are gone through, until it is dropped. The time left is estimated from `weight`, that of all samples; 0
    /// where it is not known.
    pub fn samples(&self, label: impl Into<String>, total: Option<u64>, weight: u64) -> Samples {
        let label = label.into();
        let bar = (self.mode == ProgressMode::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = match total {
                Some(_) => "{prefix} {wide_bar} {msg} {elapsed:>4}",
                None => "{prefix} {spinner} {msg} {elapsed:>4}",
            };
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(label.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        let now = Instant::now();
        let interval = if bar.is_some() { None } else { self.samples_interval };
        let weight = Weight { done: 0, total: weight };
        let mut samples =
            Samples { bar, label, total, done: 0, run: 0, weight, interval, start: now, last: now };
        samples.show();
        samples
    }
}

/// Samples being gone through.
pub struct Samples {
    bar: Option<ProgressBar>,
    label: String,
    total: Option<u64>,
    /// Samples behind, those that needed no work among them.
    done: u64,
    /// Those that did.
    run: u64,
    weight: Weight,
    interval: Option<Duration>,
    start: Instant,
    last: Instant,
}

/// Work done, and in all; where that is not known it is 0.
struct Weight {
    done: u64,
    total: u64,
}

impl Weight {
    /// How long the rest takes, if what is done took so long.
    fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        let left = self.total.checked_sub(self.done)?;
        (self.done > 0).then(|| elapsed.mul_f64(left as f64 / self.done as f64))
    }
}

impl Samples {
    /// A sample needs no work.
    pub fn skip(&mut self, weight: u64) {
        self.weight.total = self.weight.total.saturating_sub(weight);
        self.done += 1;
        self.show();
    }

    /// A sample is done.
    pub fn done(&mut self, weight: u64) {
        self.weight.done += weight;
        self.done += 1;
        self.run += 1;
        self.show();
    }

    /// Writes a line to standard error, above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::say(line)),
            None => terminal::say(line),
        }
    }

    fn show(&mut self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(self.state());
        }
        if self.interval.is_some_and(|interval| self.last.elapsed() >= interval) {
            terminal::say(&format!("{}: {}", self.label, self.state()));
            self.last = Instant::now();
        }
    }

    /// `12/500, 0.31 samples/s, 25m 03s left`
    fn state(&self) -> String {
        let elapsed = self.start.elapsed();
        let mut state = self.done.to_string();
        state += &self.total.map(|total| format!("/{total}")).unwrap_or_default();
        if self.run > 0 {
            state += &format!(", {:.2} samples/s", self.run as f64 / elapsed.as_secs_f64());
        }
        if let Some(left) = self.weight.time_left(elapsed) {
            state += &format!(", {} left", format_duration(left));
        }
        state
    }
}

impl context::Progress for Samples {
    fn observer(&mut self) -> &mut dyn Observer {
        self
    }
}

/// A long sample shows its layers.
impl Observer for Samples {
    fn layer(&mut self, layer: usize, _: &LayerReport) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}, layer {}", self.state(), layer + 1));
        }
        if self.interval.is_some() {
            self.show();
        }
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
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

    /// There are so many steps.
    fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Follows the loading of weights.
    pub fn load(&mut self, progress: LoadProgress) {
        self.set_total(progress.total_bytes);
        self.set(progress.bytes);
    }
}

/// Each layer of a forward pass is a step.
impl Observer for Task {
    fn layer(&mut self, layer: usize, _: &LayerReport) {
        self.set(layer as u64 + 1);
    }
}

/// Follows the passes over a context and that of what comes after it: each layer of each is a step.
pub struct Passes<'a> {
    task: Task,
    layers: u64,
    /// Layers of the passes that are done.
    done: u64,
    alive: &'a dyn Fn(),
}

impl<'a> Passes<'a> {
    /// Starts to show the passes of a model of so many layers, and calls `alive` at every step.
    pub fn new(progress: &Progress, label: impl Into<String>, layers: usize, alive: &'a dyn Fn()) -> Self {
        let layers = layers as u64;
        Self { task: progress.task(label, layers), layers, done: 0, alive }
    }
}

impl context::Progress for Passes<'_> {
    fn pass(&mut self, done: usize, passes: usize) {
        self.done = self.layers * done as u64;
        // One more: the query's.
        self.task.set_total(self.layers * (passes as u64 + 1));
        self.task.set(self.done);
    }

    fn observer(&mut self) -> &mut dyn Observer {
        self
    }
}

impl Observer for Passes<'_> {
    fn layer(&mut self, layer: usize, _: &LayerReport) {
        (self.alive)();
        self.task.set(self.done + layer as u64 + 1);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_goes_by_weight() {
        let left = |done, total| Weight { done, total }.time_left(Duration::from_secs(60));
        assert_eq!(left(1, 4), Some(Duration::from_secs(180)));
        assert_eq!(left(4, 4), Some(Duration::ZERO));
        assert_eq!([left(0, 4), left(3, 0)], [None; 2]);
    }

    #[test]
    fn samples_tell_where_they_are() {
        let mut samples = Progress::new(ProgressMode::None).samples("infer", Some(3), 30);
        assert_eq!(samples.state(), "0/3");
        samples.skip(10);
        samples.done(10);
        let state = samples.state();
        assert!(state.starts_with("2/3, ") && state.ends_with(" left"), "{state}");
        assert!(!Progress::new(ProgressMode::None).samples("x", None, 0).state().contains('/'));
    }
}

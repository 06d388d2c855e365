//! All CTAs of a launch.

use super::cta::{Cta, Failed};
use super::dispatch::runner;
use super::session::Session;
use crate::{LaunchShape, Scheduler};

/// Runs every CTA of the grid to its end.
///
/// A CTA runs until it ends or has used up many turns; only then does another start beside it, as far as there may be
/// several at once. Without spinning the CTAs thus run one after the other and their state is reused.
pub fn run_grid(s: &mut Session, shape: &LaunchShape) -> Result<(), Failed> {
    let kernel = s.kernel;
    let runner = runner(s.options.checks);
    let mut waiting = order(s, shape.ctas());
    let mut running: Vec<Cta> = Vec::new();
    let mut spare: Vec<Cta> = Vec::new();
    let mut turn = 0;
    loop {
        // Somebody is running without an end: let one more in.
        let admits = turn >= running.len() && running.len() < s.options.resident_ctas.max(1) as usize;
        if let Some(index) = if admits { waiting.next() } else { None } {
            let fresh = || Cta::new(kernel, shape, s.options.checks, shape.ctas() as u32);
            let mut cta = spare.pop().unwrap_or_else(fresh);
            cta.start(shape, index);
            running.push(cta);
        }
        if running.is_empty() {
            return Ok(());
        }
        turn = if turn < running.len() { turn } else { 0 };
        if running[turn].run(s, runner)? {
            spare.push(running.remove(turn));
        } else {
            turn += 1;
        }
    }
}

/// The order in which CTAs start.
fn order(s: &mut Session, ctas: u64) -> Box<dyn Iterator<Item = u64>> {
    match s.options.scheduler {
        Scheduler::RoundRobin => Box::new(0..ctas),
        Scheduler::Adversarial(_) => Box::new((0..ctas).rev()),
        Scheduler::Random(_) => {
            // Steps of a number without a common divisor visit every CTA once.
            let coprime = |step: &u64| {
                let (mut a, mut b) = (*step, ctas);
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                a == 1
            };
            let start = s.rng.below(ctas.max(1) as usize) as u64;
            let from = 1 + s.rng.below(ctas.max(1) as usize) as u64;
            let step = (from..).find(coprime).unwrap_or(1);
            Box::new((0..ctas).map(move |i| {
                ((u128::from(i) * u128::from(step) + u128::from(start)) % u128::from(ctas)) as u64
            }))
        }
    }
}

//! Comparing a capture with the emulator.

use std::fmt;

use super::archive::{Archive, Record, WORDS_PER_CHECKSUM, crc32_of_words};
use super::capture::{Emulated, run};
use super::form::Form;
use super::inputs::fingerprint;
use super::table::forms;

/// One thing that a replay found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The emulator has no architecture of this compute capability.
    UnknownArchitecture(u32),
    /// The table has no form of this name.
    UnknownForm(String),
    /// The form's kernel or operands have changed since the capture.
    Outdated {
        /// The form.
        form: String,
        /// "kernel", "operands" or "number of results".
        what: &'static str,
    },
    /// The emulator does not run the form.
    DoesNotRun {
        /// The form.
        form: String,
        /// Its words.
        reason: String,
    },
    /// A result differs by more than the form's class allows.
    Differs {
        /// The form.
        form: String,
        /// Lane, counted through the whole grid.
        case: u32,
        /// Word among the lane's results.
        word: u32,
        /// What the device gave.
        expected: u32,
        /// What the emulator gives.
        got: u32,
        /// Words of the form that differ in all.
        differing: u32,
    },
    /// A group of results has another checksum.
    ChecksumDiffers {
        /// The form.
        form: String,
        /// First lane of the group.
        case: u32,
        /// Groups of the form that differ in all.
        differing: u32,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownArchitecture(number) => {
                write!(f, "compute capability {number} has no architecture in the emulator")
            }
            Self::UnknownForm(form) => write!(f, "{form}: the table has no such form"),
            Self::Outdated { form, what } => write!(f, "{form}: its {what} changed since the capture"),
            Self::DoesNotRun { form, reason } => write!(f, "{form}: {reason}"),
            Self::Differs { form, case, word, expected, got, differing } => write!(
                f,
                "{form}: lane {case}, word {word}: the device gave {expected:#010x}, the emulator {got:#010x} \
                 ({differing} words differ)"
            ),
            Self::ChecksumDiffers { form, case, differing } => {
                write!(
                    f,
                    "{form}: the results from lane {case} on have another checksum ({differing} groups differ)"
                )
            }
        }
    }
}

/// Outcome of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Forms that were compared.
    pub forms: usize,
    /// Result words that were compared, those under checksums included.
    pub words: usize,
    /// What is wrong; empty when the emulator agrees.
    pub findings: Vec<Finding>,
}

/// Runs every form of `archive` on the emulator's architecture of the same compute capability and compares.
pub fn replay(archive: &Archive) -> Replay {
    let mut replay = Replay::default();
    let number = archive.origin.compute_capability;
    let Some(mut device) = Emulated::of_compute_capability(number) else {
        replay.findings.push(Finding::UnknownArchitecture(number));
        return replay;
    };
    let table = forms();
    for record in &archive.records {
        let Some(form) = table.iter().find(|form| form.id == record.form) else {
            replay.findings.push(Finding::UnknownForm(record.form.clone()));
            continue;
        };
        replay.forms += 1;
        replay.words += record.words as usize;
        replay.findings.extend(compare(&mut device, form, record, archive.seed));
    }
    replay
}

fn compare(device: &mut Emulated, form: &Form, record: &Record, seed: u64) -> Vec<Finding> {
    let name = || form.id.clone();
    let words = form.cases * form.output_words();
    for (what, unchanged) in [
        ("kernel", fingerprint(form.ptx().as_bytes()) == record.ptx),
        ("operands", fingerprint(&form.inputs(seed)) == record.inputs),
        ("number of results", words == record.words),
    ] {
        if !unchanged {
            return vec![Finding::Outdated { form: name(), what }];
        }
    }
    let got = match run(device, form, seed) {
        Ok(got) => got,
        Err(error) => {
            let reason = format!("{} failed: {}", error.step, error.reason);
            return vec![Finding::DoesNotRun { form: name(), reason }];
        }
    };
    let per_lane = form.output_words() as usize;
    let mut findings = Vec::new();

    let wrong = |i: &usize| !form.accepts((i % per_lane) as u32, record.raw[*i], got[*i]);
    let differing: Vec<usize> = (0..record.raw.len()).filter(wrong).collect();
    if let Some(&first) = differing.first() {
        findings.push(Finding::Differs {
            form: name(),
            case: (first / per_lane) as u32,
            word: (first % per_lane) as u32,
            expected: record.raw[first],
            got: got[first],
            differing: differing.len() as u32,
        });
    }

    let groups = got[record.raw.len()..].chunks(WORDS_PER_CHECKSUM).zip(&record.checksums);
    let differing: Vec<usize> = groups
        .enumerate()
        .filter(|(_, (words, checksum))| crc32_of_words(words) != **checksum)
        .map(|(i, _)| i)
        .collect();
    if let Some(&first) = differing.first() {
        findings.push(Finding::ChecksumDiffers {
            form: name(),
            case: ((record.raw.len() + first * WORDS_PER_CHECKSUM) / per_lane) as u32,
            differing: differing.len() as u32,
        });
    }
    findings
}

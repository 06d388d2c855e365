//! How a command ends when it does not end well.

use std::io;
use std::process::ExitCode;

use super::terminal;

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a command stopped, which decides the exit code.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something that cannot be: exit code 2.
    Usage(String),
    /// The runner or a kernel refused: exit code 1.
    Runner(lacuna_runner::Error),
    /// Anything else, as a sentence: exit code 1.
    Other(String),
    /// Lines of an input, or samples, are bad: exit code 3.
    Data(String),
    /// Standard output is closed or full. A closed one is no failure: whoever read it has enough.
    Output(io::Error),
    /// What was to be shown has been shown, and it is not as it should be: exit code 1.
    Verdict,
}

impl Failure {
    /// Says on standard error what went wrong, and gives the exit code.
    pub fn report(self) -> ExitCode {
        ExitCode::from(self.say(""))
    }

    /// Says it with `who` before it, and gives the number of the exit code.
    pub fn say(self, who: &str) -> u8 {
        let (message, code) = match self {
            Self::Usage(message) => (message + "\n\nFor more information, try '--help'.", 2),
            Self::Runner(e) => (e.to_string(), 1),
            Self::Other(message) => (message, 1),
            Self::Data(message) => (message, 3),
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => return 0,
            Self::Output(e) => (format!("cannot write to standard output: {e}"), 1),
            Self::Verdict => return 1,
        };
        terminal::say(&format!("error: {who}{message}"));
        code
    }
}

impl Failure {
    /// For calls whose arguments are those of the command line: one out of range is wrong usage.
    pub fn from_arguments(e: lacuna_runner::Error) -> Self {
        match e {
            lacuna_runner::Error::InvalidArgument { .. } => Self::Usage(e.to_string()),
            e => Self::Runner(e),
        }
    }
}

impl From<lacuna_runner::Error> for Failure {
    fn from(e: lacuna_runner::Error) -> Self {
        Self::Runner(e)
    }
}

impl From<lacuna::Error> for Failure {
    fn from(e: lacuna::Error) -> Self {
        Self::Runner(e.into())
    }
}

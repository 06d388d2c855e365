//! The program, run as a program.
#![allow(dead_code)] // every test binary uses its own part

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub struct Run {
    pub command: String,
    pub output: Output,
}

pub fn command<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(args).env("COLUMNS", "80").env_remove("LACUNA_ISA").stdin(Stdio::null());
    command
}

pub fn lacuna<'a>(args: impl IntoIterator<Item = &'a str>) -> Run {
    let mut command = command(args);
    Run { output: command.output().unwrap(), command: format!("{command:?}") }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Run {
    pub fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(
            self.output.status.code(),
            Some(code),
            "{}\n{}{}",
            self.command,
            self.stdout(),
            self.stderr()
        );
        self
    }

    #[track_caller]
    pub fn ok(&self) -> String {
        self.exits(0).stdout()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// One clear sentence on standard error, nothing on standard output, no panic.
    #[track_caller]
    pub fn fails(&self, code: i32, says: &[&str]) {
        let stderr = self.exits(code).stderr();
        assert_eq!(self.stdout(), "", "{}", self.command);
        assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{}\n{stderr}", self.command);
        for part in says {
            assert!(stderr.contains(part), "{}\n{stderr}\nlacks: {part}", self.command);
        }
    }
}

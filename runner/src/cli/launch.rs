//! `lacuna launch`: this program on several ranks, by `mpirun` or `srun`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;

use super::failure::{Failure, Outcome};
use super::{ranks, terminal};

/// Start a command on several ranks with mpirun or srun
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
                        lacuna launch --np 4 --print -- infer -m DIR -i in.jsonl -o out.jsonl\n  \
                        lacuna launch --np 8 --nodes 2 --launcher-arg=--hostfile=hosts -- infer ...\n  \
                        lacuna launch --np 8 --launcher srun --launcher-arg=--mpi=pmix -- infer ...\n\n\
                        Each rank computes with all processors it is given. Ranks that share a\n\
                        host do well with their part of them: --threads N in the command.")]
pub struct LaunchArgs {
    /// Ranks in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    np: u32,
    /// Hosts that share the ranks evenly; as the launcher finds unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// What starts them: mpirun (Open MPI's), srun
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    launcher: Launcher,
    /// An option for the launcher, such as --oversubscribe; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    launcher_arg: Vec<OsString>,
    /// Show the line for a shell and start nothing
    #[arg(long)]
    print: bool,
    /// The command of this program, with its options
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Launcher {
    #[default]
    Mpirun,
    Srun,
}

impl Launcher {
    fn name(self) -> &'static str {
        match self {
            Self::Mpirun => "mpirun",
            Self::Srun => "srun",
        }
    }

    /// Ranks are not tied to a processor: each has threads of its own. Where one fails, the others end.
    fn options(self, np: u32, nodes: Option<u32>) -> Vec<String> {
        let mut options = match self {
            Self::Mpirun => vec!["-np".into(), np.to_string()],
            Self::Srun => vec![format!("--ntasks={np}")],
        };
        if let Some(nodes) = nodes {
            let each = np / nodes;
            options.extend(match self {
                Self::Mpirun => ["--map-by".into(), format!("ppr:{each}:node")],
                Self::Srun => [format!("--nodes={nodes}"), format!("--ntasks-per-node={each}")],
            });
        }
        match self {
            Self::Mpirun => options.extend(["--bind-to".into(), "none".into()]),
            Self::Srun => options.push("--kill-on-bad-exit=1".into()),
        }
        options
    }
}

pub fn run(args: LaunchArgs) -> Outcome {
    args.check()?;
    let program = std::env::current_exe()
        .map_err(|e| Failure::Other(format!("cannot tell where this program lies: {e}")))?;
    let words = args.words(&program);
    if args.print {
        return terminal::print(&(shell_line(&words)? + "\n"));
    }
    let launcher = args.launcher.name();
    let e = replace_by(&words);
    Err(Failure::Other(match e.kind() {
        io::ErrorKind::NotFound => {
            format!("cannot find {launcher}; install it, or take another one with --launcher")
        }
        _ => format!("cannot start {launcher}: {e}"),
    }))
}

impl LaunchArgs {
    /// Says once what every rank would say.
    fn check(&self) -> Outcome {
        if let Some(nodes) = self.nodes
            && !self.np.is_multiple_of(nodes)
        {
            let np = self.np;
            return Err(Failure::Usage(format!("--np must be a multiple of --nodes ({nodes}), got {np}")));
        }
        self.check_command()?;
        if cfg!(feature = "mpi") {
            return Ok(());
        }
        Err(Failure::Other(format!(
            "this program was built without MPI: build it with --features mpi, or run the command on ranks of one process, \
             with --np {}",
            self.np
        )))
    }

    /// Refuses a command that has no ranks; ends this process where the command is not right by itself.
    fn check_command(&self) -> Outcome {
        let words = [OsStr::new("lacuna")].into_iter().chain(self.command.iter().map(OsString::as_os_str));
        let matches = super::Cli::command().try_get_matches_from(words).unwrap_or_else(|e| e.exit());
        let Some((name, options)) = matches.subcommand() else { return Ok(()) };
        match ranks::np(options) {
            Some(Some(np)) if np != self.np as usize => Err(Failure::Usage(format!(
                "--np is {} for launch and {np} for {name}; it need be given for launch alone",
                self.np
            ))),
            Some(_) => Ok(()),
            None => Err(Failure::Usage(format!("lacuna {name} does not run on several ranks"))),
        }
    }

    /// The launcher's line.
    fn words(&self, program: &Path) -> Vec<OsString> {
        let mut words = vec![OsString::from(self.launcher.name())];
        words.extend(self.launcher.options(self.np, self.nodes).into_iter().map(OsString::from));
        words.extend(self.launcher_arg.iter().cloned());
        words.push(program.into());
        words.extend(self.command.iter().cloned());
        words
    }
}

/// Becomes the launcher, so that signals and the exit code are its own; comes back with what went wrong.
#[cfg(unix)]
fn replace_by(words: &[OsString]) -> io::Error {
    use std::os::unix::process::CommandExt;

    Command::new(&words[0]).args(&words[1..]).exec()
}

#[cfg(not(unix))]
fn replace_by(words: &[OsString]) -> io::Error {
    match Command::new(&words[0]).args(&words[1..]).status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(e) => e,
    }
}

/// The words as a POSIX shell reads them.
fn shell_line(words: &[OsString]) -> Outcome<String> {
    let words: Option<Vec<String>> = words.iter().map(|word| Some(quote(word.to_str()?))).collect();
    let words =
        words.ok_or_else(|| Failure::Usage("a line with words that are not UTF-8 cannot be shown".into()))?;
    Ok(words.join(" "))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(np: u32, nodes: Option<u32>, launcher: Launcher, command: &[&str]) -> LaunchArgs {
        let command = command.iter().map(OsString::from).collect();
        LaunchArgs { np, nodes, launcher, launcher_arg: vec!["--tag-output".into()], print: true, command }
    }

    fn line(args: &LaunchArgs) -> String {
        shell_line(&args.words(Path::new("/opt/my tools/lacuna"))).unwrap()
    }

    #[test]
    fn lines_of_the_launchers() {
        let command = ["infer", "-i", "it's.jsonl", "--stop", "a $b"];
        assert_eq!(
            line(&args(4, None, Launcher::Mpirun, &command)),
            r"mpirun -np 4 --bind-to none --tag-output '/opt/my tools/lacuna' infer -i 'it'\''s.jsonl' --stop 'a $b'"
        );
        assert_eq!(
            line(&args(4, Some(2), Launcher::Mpirun, &["infer"])),
            "mpirun -np 4 --map-by ppr:2:node --bind-to none --tag-output '/opt/my tools/lacuna' infer"
        );
        assert_eq!(
            line(&args(6, None, Launcher::Srun, &["infer"])),
            "srun --ntasks=6 --kill-on-bad-exit=1 --tag-output '/opt/my tools/lacuna' infer"
        );
        assert_eq!(
            line(&args(6, Some(3), Launcher::Srun, &["infer"])),
            "srun --ntasks=6 --nodes=3 --ntasks-per-node=2 --kill-on-bad-exit=1 --tag-output '/opt/my tools/lacuna' infer"
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_shell_reads_the_words_back() {
        let words = [
            "",
            "plain",
            "a b",
            "it's",
            "'",
            "$HOME",
            "`id`",
            "a\"b",
            "\\",
            "*",
            "~",
            "a\nb",
            "!x",
            "#",
            "ä;|&<>()",
        ];
        let line = shell_line(&words.map(OsString::from)).unwrap();
        let shell = Command::new("sh").args(["-c", &format!(r"printf '%s\0' {line}")]).output().unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), words.map(|word| format!("{word}\0")).concat());
    }

    #[test]
    fn what_cannot_be_launched_is_refused() {
        let message = |args: LaunchArgs| match args.check() {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            message(args(3, Some(2), Launcher::Mpirun, &["doctor"])),
            "--np must be a multiple of --nodes (2), got 3"
        );
        assert_eq!(
            message(args(2, None, Launcher::Mpirun, &["doctor"])),
            "lacuna doctor does not run on several ranks"
        );
        assert_eq!(
            message(args(2, None, Launcher::Mpirun, &["launch", "--np", "2", "--", "infer"])),
            "lacuna launch does not run on several ranks"
        );
    }
}

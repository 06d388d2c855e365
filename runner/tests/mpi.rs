//! Ranks as processes under `mpirun`: the example `ranks`, whole and with a rank that fails, and the program itself.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use lacuna_runner::needle::{self, PromptOptions};
use serde_json::{Value, json};

/// No job here takes longer; one that does hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The example, built as this test was.
fn ranks() -> &'static Path {
    static RANKS: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        let features = if cfg!(feature = "nccl") { "mpi,nccl" } else { "mpi" };
        cargo.args([
            "build",
            "--package",
            env!("CARGO_PKG_NAME"),
            "--features",
            features,
            "--example",
            "ranks",
        ]);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "{cargo:?}");
        profile.join("examples/ranks")
    });
    &RANKS
}

/// A job under `mpirun`.
struct Job {
    mpirun: Child,
    stderr: thread::JoinHandle<String>,
    stdout: BufReader<std::process::ChildStdout>,
    said: String,
    start: Instant,
}

/// How a job ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
    errors: String,
}

impl Job {
    /// Starts the example: numbers of processes with their arguments.
    fn start(processes: &[(usize, &str)]) -> Self {
        Self::of(ranks(), processes)
    }

    fn of(program: &Path, processes: &[(usize, &str)]) -> Self {
        let mut mpirun = Command::new("mpirun");
        mpirun.args(["--allow-run-as-root", "--oversubscribe"]);
        for (i, (processes, args)) in processes.iter().enumerate() {
            mpirun.args((i > 0).then_some(":")).args(["-np", &processes.to_string()]);
            mpirun.arg(program).args(args.split_whitespace());
        }
        let start = Instant::now();
        let mut mpirun =
            mpirun.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun is there");
        let mut stderr = mpirun.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let stdout = BufReader::new(mpirun.stdout.take().unwrap());
        Self { mpirun, stderr, stdout, said: String::new(), start }
    }

    /// Reads on until a line starts with `start`, and gives the rest of that line.
    fn line(&mut self, start: &str) -> String {
        loop {
            let from = self.said.len();
            assert_ne!(self.stdout.read_line(&mut self.said).unwrap(), 0, "no {start:?} in {:?}", self.said);
            if let Some(rest) = self.said[from..].strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Sends a signal to the process that is rank 2 of 4, in the midst of the work.
    fn signal(&mut self, signal: &str) {
        let process = self.line("rank 2 of 4 is process ");
        self.line("round 1: ");
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Waits for the end, which comes by itself.
    fn end(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.mpirun.try_wait().unwrap() {
                break status;
            }
            if self.start.elapsed() > LIMIT {
                self.mpirun.kill().unwrap();
                panic!("the job does not end; it said {:?}", self.said);
            }
            sleep(Duration::from_millis(20));
        };
        self.stdout.read_to_string(&mut self.said).unwrap();
        let errors = self.stderr.join().unwrap();
        Ended { code: status.code(), said: self.said, errors }
    }
}

#[test]
fn processes_do_what_threads_do() {
    let sum = |ended: &Ended| {
        let lines = ended.said.lines().filter(|line| line.starts_with("round "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let threads = Command::new(ranks()).args(["--np", "4", "--rounds", "3"]).output().unwrap();
    let threads = Ended {
        code: threads.status.code(),
        said: String::from_utf8(threads.stdout).unwrap(),
        errors: String::from_utf8(threads.stderr).unwrap(),
    };
    assert!(threads.code == Some(0) && sum(&threads).len() == 3, "{threads:?}");
    let processes = Job::start(&[(4, "--rounds 3")]).end();
    assert_eq!(processes.code, Some(0), "{processes:?}");
    assert_eq!(sum(&processes), sum(&threads));
    for rank in 0..4 {
        assert!(processes.said.contains(&format!("rank {rank} of 4 is process ")), "{processes:?}");
    }
}

#[test]
fn long_messages_are_cut() {
    // Parts of 1000 bytes: whole ones, a shorter last one, and messages of none.
    for bytes in ["--bytes 0", "--bytes 1000", "--bytes 4000", "--bytes 300001"] {
        let ended = Job::start(&[(3, &format!("--max-part 1000 --rounds 2 --terms 10 {bytes}"))]).end();
        assert_eq!(ended.code, Some(0), "{bytes}: {ended:?}");
    }
}

#[test]
fn a_rank_that_errs_says_so_and_ends_the_others() {
    let ended = Job::start(&[(2, ""), (1, "--terms 0"), (1, "")]).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.errors.contains("error: rank 2: terms must be at least 1, got 0"), "{ended:?}");
}

#[test]
fn a_rank_that_is_done_early_is_named() {
    let ended = Job::start(&[(1, "--rounds 3"), (1, "--rounds 2")]).end();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.contains("error: rank 0: rank 1 has ended"), "{ended:?}");
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let mut job = Job::start(&[(4, "--rounds 1000000 --terms 10 --pause 1")]);
    job.signal("-KILL");
    let ended = job.end();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.contains("rank 2") && ended.errors.contains("signal 9"), "{ended:?}");
}

#[test]
fn a_rank_that_is_stopped_is_named_within_the_time_limit() {
    let mut job = Job::start(&[(4, "--rounds 1000000 --terms 10 --pause 1 --timeout 4")]);
    job.signal("-STOP");
    let ended = job.end();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.contains("rank 2 has not answered for 4.00 s"), "{ended:?}");
}

/// The program's answers to two prompts of the needle model.
struct Infer {
    dir: tempfile::TempDir,
    answers: Vec<String>,
}

impl Infer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = needle::NeedleOptions { max_len: 1024, ..Default::default() };
        needle::write(dir.path().join("needle"), &options, needle::Existing::Refuse).unwrap();
        let (mut records, mut answers) = (String::new(), Vec::new());
        for seed in 0..2 {
            let options = PromptOptions { num_tokens: 600, num_needles: 2, seed, ..Default::default() };
            let prompt = options.generate(&needle::tokenizer()).unwrap();
            let (context, query) = prompt.text.split_at(prompt.text.find("\nWhich ").unwrap());
            let answer = prompt.answer(&prompt.questions[0]).to_owned();
            let record = json!({"input_context": context, "input_query": query, "output": answer});
            records += &format!("{record}\n");
            answers.push(answer);
        }
        std::fs::write(dir.path().join("in.jsonl"), records).unwrap();
        Self { dir, answers }
    }

    fn args(&self, out: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "infer -m {dir}/needle -i {dir}/in.jsonl -o {dir}/{out} -n 12 --threads 1 -a star,block=128,anchor=32"
        )
    }

    fn answers_of(&self, out: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(out)).unwrap();
        let line = |line| serde_json::from_str::<Value>(line).unwrap()["pred"].as_str().unwrap().to_owned();
        text.lines().map(line).collect()
    }
}

fn lacuna() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lacuna"))
}

#[test]
fn processes_answer_what_threads_answer() {
    let infer = Infer::new();
    let threads = infer.args("threads.jsonl") + " --np 3";
    let threads = Command::new(lacuna()).args(threads.split_whitespace()).output().unwrap();
    assert!(threads.status.success(), "{threads:?}");
    let processes = Job::of(lacuna(), &[(3, &infer.args("processes.jsonl"))]).end();
    assert_eq!(processes.code, Some(0), "{processes:?}");
    let answers = infer.answers_of("processes.jsonl");
    assert_eq!(answers, infer.answers_of("threads.jsonl"));
    for (answer, want) in answers.iter().zip(&infer.answers) {
        assert!(answer.contains(want), "{answer:?} lacks {want:?}");
    }
}

#[test]
fn the_program_fails_with_its_own_exit_code_and_says_which_rank() {
    let infer = Infer::new();
    // The number of ranks is wrong usage, before they are joined.
    let ended = Job::of(lacuna(), &[(2, &(infer.args("out.jsonl") + " --np 3"))]).end();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.errors.contains("--np is 3, but mpirun started 2 processes"), "{ended:?}");
    // What only rank 0 finds out, while the other one waits for it.
    std::fs::create_dir(infer.dir.path().join("directory")).unwrap();
    let ended = Job::of(lacuna(), &[(2, &infer.args("directory"))]).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.errors.contains("error: rank 0: "), "{ended:?}");
}

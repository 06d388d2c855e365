//! `lacuna infer`, run as a program: files of prompts to files of answers.

mod common;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use lacuna_runner::needle::{self, Haystack, PromptOptions};
use program::{Run, command, lacuna, path};
use serde_json::{Value, json};

/// The needle model, made once.
static NEEDLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let options = needle::NeedleOptions { max_len: 1024, ..Default::default() };
    needle::write(dir.path().join("needle"), &options, needle::Existing::Refuse).unwrap();
    dir
});

fn model() -> PathBuf {
    NEEDLE.path().join("needle")
}

/// A prompt of about `tokens` tokens in Star Attention's form, and what answers it.
fn record(seed: u64, tokens: usize) -> (Value, String) {
    let options = PromptOptions {
        haystack: Haystack::Noise,
        num_tokens: tokens,
        num_needles: 2,
        seed,
        ..Default::default()
    };
    let prompt = options.generate(&needle::tokenizer()).unwrap();
    let answer = prompt.answer(&prompt.questions[0]).to_owned();
    let at = prompt.text.find("\nWhich ").unwrap();
    let (context, query) = prompt.text.split_at(at);
    let others = json!({"tokens": prompt.tokens.len()});
    (
        json!({"index": seed, "input_context": context, "input_query": query, "output": answer, "others": others}),
        answer,
    )
}

fn lines_of(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(input: impl AsRef<[u8]>) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(bench.input(), input).unwrap();
        bench
    }

    fn input(&self) -> PathBuf {
        self.dir.path().join("in.jsonl")
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("out.jsonl")
    }

    /// Runs over the files, with further arguments.
    fn infer(&self, more: &[&str]) -> Run {
        let (model, input, output) = (model(), self.input(), self.output());
        let args = [
            "infer",
            "-m",
            path(&model),
            "-i",
            path(&input),
            "-o",
            path(&output),
            "-n",
            "12",
            "--threads",
            "2",
        ];
        lacuna(args.iter().chain(more).copied())
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The output without what differs from run to run.
    fn stable(&self) -> Vec<String> {
        self.lines().into_iter().map(stable).collect()
    }
}

fn stable(mut line: Value) -> String {
    let cost = line["meta"].as_object_mut().unwrap().remove("cost");
    assert!(cost.is_some() || line.get("error").is_some());
    line.to_string()
}

/// The same lines; where they are not, the end of the first one that differs, which is long.
#[track_caller]
fn same(got: &[String], want: &[String], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let end = |line: &String| line[line.find("\"length\":").unwrap_or(0)..].to_owned();
    for (got, want) in got.iter().zip(want) {
        assert!(got == want, "{what}\n{}\n{}", end(got), end(want));
    }
}

/// Three records, and their answers.
fn three() -> ([Value; 3], [String; 3]) {
    let all = [1, 2, 3].map(|seed| record(seed, 300));
    (all.clone().map(|(record, _)| record), all.map(|(_, answer)| answer))
}

#[test]
fn every_sample_is_a_line_with_its_answer() {
    let (records, answers) = three();
    let bench = Bench::new(lines_of(&records));
    let stderr = {
        let run = bench.infer(&[]);
        assert_eq!(run.ok(), "");
        run.stderr()
    };
    assert_eq!(stderr, "[3 answered]\n");
    let lines = bench.lines();
    assert_eq!(lines.len(), 3);
    for ((line, record), answer) in lines.iter().zip(&records).zip(&answers) {
        assert_eq!(line["pred"].as_str().unwrap().trim(), format!("{answer}."));
        for key in ["index", "input_context", "input_query", "others"] {
            assert_eq!(line[key], record[key], "{key}");
        }
        assert_eq!(line["outputs"], json!([answer]));
        assert_eq!((&line["truncation"], &line["length"]), (&json!(-1), &json!(-1)));
        let meta = &line["meta"];
        let tokens = meta["context_tokens"].as_u64().unwrap() + meta["query_tokens"].as_u64().unwrap();
        assert_eq!(json!(tokens), record["others"]["tokens"]);
        assert_eq!((&meta["attn"], &meta["cost"]["density"]), (&json!("dense"), &json!(1.0)));
        assert_eq!((&meta["finish_reason"], &meta["kept_tokens"]), (&json!("eos"), &meta["context_tokens"]));
        assert!(meta["cost"]["prefill_ms"].as_f64().unwrap() > 0.0);
    }
    // The order of the published programs' fields.
    let text = fs::read_to_string(bench.output()).unwrap();
    let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap();
    let order =
        ["index", "pred", "input_context", "input_query", "outputs", "others", "truncation", "length"];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
}

#[test]
fn an_output_cut_at_any_byte_is_completed() {
    let (records, _) = three();
    let bench = Bench::new(lines_of(&records));
    bench.infer(&[]).ok();
    let whole = fs::read(bench.output()).unwrap();
    let stable = bench.stable();
    let ends: Vec<usize> =
        whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    // What a cut does to the file is a matter of bytes: the unit tests of the writer cut at every one of them. Here the program
    // goes on from cuts at both ends of the last two lines, within them, and within a line end.
    let mut cuts = vec![0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 1, ends[1], ends[1] + 1];
    cuts.extend([ends[1] + (ends[2] - ends[1]) / 2, ends[2] - 2, ends[2] - 1, ends[2]]);
    for cut in cuts {
        fs::write(bench.output(), &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|&&end| end <= cut).count();
        let stderr = bench.infer(&["--resume"]).exits(0).stderr();
        assert!(stderr.starts_with(&format!("[{} answered", 3 - kept)), "cut at {cut}: {stderr}");
        same(&bench.stable(), &stable, &format!("cut at {cut}"));
        let bytes = fs::read(bench.output()).unwrap();
        let kept_bytes = if kept == 0 { 0 } else { ends[kept - 1] };
        assert_eq!(bytes[..kept_bytes], whole[..kept_bytes], "cut at {cut}");
    }
}

#[test]
fn a_killed_run_is_completed() {
    let records: Vec<Value> = (0..40).map(|seed| record(seed, 900).0).collect();
    let bench = Bench::new(lines_of(&records));
    let (model, input, output) = (model(), bench.input(), bench.output());
    let args =
        ["infer", "-m", path(&model), "-i", path(&input), "-o", path(&output), "-n", "12", "--threads", "2"];
    let mut child = command(args).stderr(Stdio::null()).spawn().unwrap();
    // After the first line, in the middle of the work.
    while fs::metadata(&output).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a line");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(&output).unwrap();
    let lines = before.iter().filter(|&&byte| byte == b'\n').count();
    assert!((1..40).contains(&lines), "{lines}");
    bench.infer(&["--resume"]).ok();
    let indices: Vec<Value> = bench.lines().into_iter().map(|line| line["index"].clone()).collect();
    assert_eq!(indices, (0..40).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn an_output_that_is_there_is_kept_unless_told() {
    let (records, _) = three();
    let bench = Bench::new(lines_of(&records));
    bench.infer(&["--num-samples", "1"]).ok();
    let before = fs::read(bench.output()).unwrap();
    bench.infer(&[]).fails(1, &["out.jsonl: it exists; resume it or overwrite it"]);
    // Another method, another length of answers, another input.
    for other in [&["-a", "streaming"][..], &["-n", "11"], &["--temperature", "1"], &["--stop", "x"]] {
        let args: Vec<&str> = ["--resume"].iter().chain(other).copied().collect();
        let (model, input, output) = (model(), bench.input(), bench.output());
        let base = ["infer", "-m", path(&model), "-i", path(&input), "-o", path(&output)];
        let run = lacuna(base.iter().chain(&args).copied());
        run.fails(1, &["line 1: it was answered by another model or with other options (attention dense)"]);
    }
    fs::write(bench.input(), lines_of(&[records[1].clone()]).replace("\"index\":2", "\"index\":1")).unwrap();
    bench.infer(&["--resume"]).fails(3, &["in.jsonl: line 1: the output has an answer to another prompt"]);
    assert_eq!(fs::read(bench.output()).unwrap(), before);
    bench.infer(&["--overwrite"]).ok();
    assert_ne!(fs::read(bench.output()).unwrap(), before);
    fs::write(bench.output(), "{\"pred\": \"by hand\"}\n").unwrap();
    bench.infer(&["--resume"]).fails(1, &["line 1: not an answer of this program"]);
}

#[test]
fn samples_are_known_by_index_or_by_line() {
    let (records, _) = three();
    // Their order changed, one of them new: the indices say which are there.
    let bench = Bench::new(lines_of(&records[..2]));
    bench.infer(&[]).ok();
    fs::write(bench.input(), lines_of(&[records[2].clone(), records[1].clone(), records[0].clone()]))
        .unwrap();
    assert_eq!(bench.infer(&["--resume"]).exits(0).stderr(), "[1 answered, 2 there already]\n");
    let indices: Vec<Value> = bench.lines().iter().map(|line| line["index"].clone()).collect();
    assert_eq!(indices, [1, 2, 3].map(Value::from));

    // The same index twice: lines it is.
    let mut twins = records.clone();
    twins[1]["index"] = 1.into();
    let bench = Bench::new(lines_of(&twins));
    bench.infer(&["--num-samples", "1"]).ok();
    assert_eq!(bench.infer(&["--resume"]).exits(0).stderr(), "[2 answered, 1 there already]\n");
    let meta: Vec<Value> = bench.lines().iter().map(|line| line["meta"]["line"].clone()).collect();
    assert_eq!(meta, [1, 2, 3].map(Value::from));
}

#[test]
fn bad_lines_fail_before_anything_runs_or_are_skipped() {
    let (records, answers) = three();
    let text = format!(
        "\u{feff}{}\r\n\n{{\"index\": NaN}}\n{}\r\n[1]\n{{\"input_context\": \"x\"}}\n{}",
        records[0], records[1], records[2]
    );
    let bench = Bench::new(text);
    bench.infer(&[]).fails(3, &["in.jsonl: line 3: not JSON: ", "2 more lines are bad"]);
    assert!(!bench.output().exists());
    let stderr = bench.infer(&["--on-bad-line", "skip"]).exits(0).stderr();
    for says in [
        "in.jsonl: line 3: not JSON",
        "in.jsonl: line 5: a record must be a JSON object, got a list; skipped",
        "in.jsonl: line 6: a star record needs input_query; skipped",
        "[3 answered, 3 bad lines skipped]",
    ] {
        assert!(stderr.contains(says), "{stderr}");
    }
    let lines = bench.lines();
    assert_eq!(
        lines.iter().map(|line| line["meta"]["line"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 4, 7]
    );
    for (line, answer) in lines.iter().zip(&answers) {
        assert!(line["pred"].as_str().unwrap().contains(answer.as_str()));
    }
    // Bad lines that are not asked for do not matter.
    bench.infer(&["--overwrite", "--num-samples", "1"]).ok();
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn a_failing_sample_is_a_line_too() {
    let (mut records, _) = three();
    records[1]["input_context"] = json!("lake ".repeat(5000));
    let bench = Bench::new(lines_of(&records));
    bench.infer(&[]).exits(3);
    let lines = bench.lines();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[1]["pred"], &lines[1]["error"]["kind"]), (&json!(""), &json!("too_long")));
    assert!(lines[1]["error"]["message"].as_str().unwrap().contains("max_position_embeddings is 1024"));
    assert!(lines[0].get("error").is_none() && lines[2].get("error").is_none());
    let stderr = bench.infer(&["--overwrite"]).exits(3).stderr();
    assert!(stderr.contains("[2 answered, 1 failed]"), "{stderr}");
    assert!(
        stderr.contains("error: 1 of 3 samples failed: ") && stderr.contains("line 2: the prompt takes"),
        "{stderr}"
    );
    bench.infer(&["--overwrite", "--keep-going"]).exits(0);
    // It has its answer, such as it is; taken out it is tried again.
    assert_eq!(bench.infer(&["--resume"]).exits(0).stderr(), "[0 answered, 3 there already]\n");
    fs::write(bench.output(), [lines[0].to_string(), lines[2].to_string(), String::new()].join("\n"))
        .unwrap();
    bench.infer(&["--resume"]).exits(3);
    assert_eq!(bench.lines().len(), 3);
}

#[test]
fn ranks_agree_with_one() {
    let (mut records, _) = three();
    records[1]["input_context"] = json!("lake ".repeat(5000));
    for attn in ["dense", "star,block=64,anchor=16"] {
        let bench = Bench::new(lines_of(&records));
        bench.infer(&["-a", attn, "--keep-going"]).exits(0);
        let alone = bench.stable();
        assert_eq!(alone.len(), 3);
        for np in ["2", "3"] {
            bench.infer(&["-a", attn, "--keep-going", "--overwrite", "--np", np]).exits(0);
            same(&bench.stable(), &alone, &format!("{attn}, {np} ranks"));
        }
        // Resumed with other ranks.
        let text = fs::read_to_string(bench.output()).unwrap();
        fs::write(bench.output(), text.split_inclusive('\n').next().unwrap()).unwrap();
        bench.infer(&["-a", attn, "--keep-going", "--resume", "--np", "2"]).exits(0);
        same(&bench.stable(), &alone, attn);
    }
    // Blocks that are as many as ranks are others.
    let bench = Bench::new(lines_of(&records[..1]));
    bench.infer(&["-a", "star", "--np", "2"]).exits(0);
    bench.infer(&["-a", "star", "--np", "3", "--resume"]).exits(1);
}

#[test]
fn ranks_end_with_the_one_that_fails() {
    let (records, _) = three();
    let bench = Bench::new(lines_of(&records));
    fs::create_dir(bench.output()).unwrap();
    bench.infer(&["--np", "3"]).fails(1, &["cannot write "]);
    let model = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(self::model().join(file), model.path().join(file)).unwrap();
    }
    let (input, output) = (bench.input(), bench.dir.path().join("other.jsonl"));
    let args = ["infer", "-m", path(model.path()), "-i", path(&input), "-o", path(&output), "--np", "2"];
    lacuna(args).fails(1, &["model.safetensors"]);
    // Nothing in it: no reason to refuse it.
    assert_eq!(fs::metadata(&output).unwrap().len(), 0);
}

#[test]
fn pipes_go_in_and_come_out() {
    let (records, answers) = three();
    let model = model();
    let mut child =
        command(["infer", "-m", path(&model), "-i", "-", "-o", "-", "-n", "12", "--echo", "none"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    child.stdin.take().unwrap().write_all(lines_of(&records).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (line, answer) in lines.iter().zip(&answers) {
        assert!(line["pred"].as_str().unwrap().contains(answer.as_str()));
        assert!(line.get("input_context").is_none() && line["meta"].get("input_hash").is_none());
    }
    assert_eq!(lines.len(), 3);
    let bench = Bench::new("");
    let input = bench.input();
    lacuna(["infer", "-m", path(&model), "-i", path(&input), "-o", "-", "--resume"])
        .fails(2, &["--resume needs an output that is a file"]);
}

#[test]
fn all_formats_are_answered() {
    let (record, answer) = record(1, 300);
    let [context, query] = ["input_context", "input_query"].map(|key| record[key].as_str().unwrap());
    let whole = format!("{context}{query}");
    for (line, more) in [
        (json!({"input": context, "answer_prefix": query, "outputs": [answer]}), &["--format", "ruler"][..]),
        (json!({"input": whole, "outputs": [answer]}), &["-a", "star,block=128", "--query-tokens", "40"]),
        (json!({"prompt": whole}), &["--tokenize", "joint"]),
        (
            json!({"input_context": context, "input_query": query, "outputs": [answer]}),
            &["--tokenize", "joint"],
        ),
        (json!({"input_context": "", "input_query": whole, "outputs": []}), &["-a", "star,block=128"]),
    ] {
        let bench = Bench::new(lines_of(&[line]));
        bench.infer(more).ok();
        let pred = bench.lines()[0]["pred"].as_str().unwrap().to_owned();
        assert_eq!(pred.trim(), format!("{answer}."), "{more:?}");
    }
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let bench = Bench::new(lines_of(&[chat]));
    bench.infer(&[]).exits(3);
    let message = bench.lines()[0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the tokens of Llama 3 or ChatML"), "{message}");
}

#[test]
fn what_cannot_be_is_refused() {
    let (records, _) = three();
    let bench = Bench::new(lines_of(&[json!({"prompt": "x"})]));
    bench
        .infer(&["-a", "star,block=64"])
        .fails(2, &["query_tokens must be given for star and prompt records"]);
    bench.infer(&["--format", "csv"]).fails(2, &["the formats are auto, star, ruler"]);
    bench.infer(&["--echo", "some"]).fails(2, &["full, hash or none"]);
    bench.infer(&["--on-bad-line", "pray"]).fails(2, &["fail or skip"]);
    bench.infer(&["--resume", "--overwrite"]).fails(2, &["cannot be used with"]);
    let bench = Bench::new(lines_of(&records));
    bench.infer(&["--query-tokens", "9"]).fails(2, &["none for star records"]);
    let (model, input) = (model(), bench.input());
    lacuna(["infer", "-m", path(&model), "-i", path(&input), "-o", path(&input), "--overwrite"])
        .fails(2, &["the output is the input"]);
    assert_eq!(fs::read_to_string(&input).unwrap(), lines_of(&records));
    let missing = bench.dir.path().join("no/such/out.jsonl");
    lacuna(["infer", "-m", path(&model), "-i", path(&input), "-o", path(&missing)])
        .fails(1, &["cannot write "]);
    lacuna(["infer", "-m", path(&model), "-i", path(&missing), "-o", "-"]).fails(1, &["cannot read "]);
    lacuna(["infer", "-m", path(&model), "-i", path(bench.dir.path()), "-o", "-"])
        .fails(1, &["cannot read "]);
}

#[test]
fn hostile_inputs_end_in_sentences() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let cases: [(&[u8], i32); 10] = [
        (b"", 0),
        (b"\n \r\n\t\n", 0),
        (b"\xef\xbb\xbf", 0),
        (b"\xff\xfe{\0}\0", 3),
        (b"{\"prompt\": \"\xc3\x28\"}", 3),
        (b"{\"prompt\": \"x\", \"index\": 1e999}", 3),
        (b"{\"prompt\": \"x\", \"index\": 123456789012345678901234567890}", 3),
        (b"{\"prompt\": \"\\ud800\"}", 3),
        (b"{\"prompt\": \"x\"", 3),
        (deep.as_bytes(), 3),
    ];
    for (bytes, code) in cases {
        let bench = Bench::new(bytes);
        let run = bench.infer(&[]);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        match code {
            0 => {
                assert_eq!(run.exits(0).stderr(), "[0 answered]\n", "{shown}");
                assert_eq!(fs::metadata(bench.output()).unwrap().len(), 0);
            }
            _ => run.fails(code, &["in.jsonl: line 1: "]),
        }
    }
    // Fields of any size pass through.
    let record = json!({"prompt": "lake", "index": i64::MIN, "length": u64::MAX, "truncation": "none", "others": {"x": [1e300]}});
    let bench = Bench::new(lines_of(std::slice::from_ref(&record)));
    bench.infer(&["-n", "1"]).exits(2);
    let (model, input, output) = (model(), bench.input(), bench.output());
    lacuna(["infer", "-m", path(&model), "-i", path(&input), "-o", path(&output), "-n", "1"]).ok();
    for key in ["index", "length", "truncation", "others"] {
        assert_eq!(bench.lines()[0][key], record[key], "{key}");
    }
}

#[test]
fn a_full_or_closed_output_is_no_panic() {
    let (records, _) = three();
    let bench = Bench::new(lines_of(&records));
    let (model, input) = (model(), bench.input());
    if Path::new("/dev/full").exists() {
        let args = ["infer", "-m", path(&model), "-i", path(&input), "-n", "1", "-o"];
        lacuna(args.iter().copied().chain(["/dev/full"])).fails(1, &["cannot write /dev/full"]);
        lacuna(args.iter().copied().chain(["/dev/full", "--np", "2"])).fails(1, &["cannot write /dev/full"]);
    }
    let mut child = command(["infer", "-m", path(&model), "-i", path(&input), "-o", "-", "-n", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

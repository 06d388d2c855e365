//! The program, run as a program.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use program::{Run, command, lacuna, path};
use serde_json::Value;

/// The needle model, made once by the program itself.
static NEEDLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("needle");
    lacuna(["model", "needle", "--max-len", "4k", "--out", path(&out)]).ok();
    dir
});

fn needle() -> PathBuf {
    NEEDLE.path().join("needle")
}

/// A copy of the needle model to spoil.
fn copy_of_needle() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(needle()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn lacuna_with_input<'a>(args: impl IntoIterator<Item = &'a str>, input: &[u8]) -> Run {
    let mut command = command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Run { output: child.wait_with_output().unwrap(), command: format!("{command:?}") }
}

const COMMANDS: [&[&str]; 12] = [
    &[],
    &["demo"],
    &["generate"],
    &["infer"],
    &["sweep"],
    &["mask"],
    &["tokens"],
    &["model"],
    &["model", "needle"],
    &["model", "info"],
    &["plan"],
    &["doctor"],
];

#[test]
fn help_has_examples_and_fits_80_columns() {
    for name in COMMANDS {
        for flag in ["-h", "--help"] {
            let help = lacuna(name.iter().copied().chain([flag])).ok();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name:?} {flag}: {line}");
            }
            assert!(help.contains("Usage: lacuna"), "{name:?}");
            // The groups list their commands instead.
            assert!(
                help.contains("lacuna ") && (help.contains("xample") || help.contains("Commands:")),
                "{name:?}"
            );
        }
    }
    assert!(lacuna(["--version"]).ok().starts_with(concat!("lacuna ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn help_lists_the_commands() {
    let help = lacuna(["--help"]).ok();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        commands,
        ["demo", "generate", "infer", "sweep", "launch", "mask", "tokens", "model", "plan", "doctor", "help"]
    );
    assert!(help.contains("16k is 16384"));
    assert!(help.contains("  doctor    Check this machine"), "{help}");
    assert!(lacuna(["demo", "--help"]).ok().contains("What each pattern ought to find"));
    assert!(lacuna(["model", "needle", "--help"]).ok().contains("built by hand"));
}

#[test]
fn attn_help_needs_no_model() {
    let page = lacuna(["generate", "--attn", "help"]).ok();
    for name in [
        "dense",
        "flexprefill",
        "xattention",
        "vertical-slash",
        "a-shape",
        "tri-shape",
        "streaming",
        "block-diagonal",
        "ring",
        "star",
        "starx",
        "star-topk",
        "seq-topk",
        "compress (or bmrt)",
        "summary",
    ] {
        assert!(page.contains(&format!("\n{name}")), "{name}");
    }
    for default in [
        "gamma=0.9 ",
        "min_budget=1k ",
        "threshold=0.9 ",
        "vertical=1000 ",
        "local=8k ",
        "chunk=4k ",
        "block=auto ",
        "mode=exact_lse ",
        "query_pos=context ",
    ] {
        assert!(page.contains(default), "{default}");
    }
    assert_eq!(lacuna(["demo", "-a", "help"]).ok(), page);
    assert_eq!(lacuna(["mask", "--attn=help"]).ok(), page);
}

#[test]
fn wrong_usage_says_what_is_right() {
    let model = needle();
    let generate =
        |more: &[&str]| lacuna(["generate", "-m", path(&model), "-p", "x"].iter().chain(more).copied());
    generate(&["-a", "flexprefill,gamma=2"]).fails(2, &["flexprefill: gamma must be in (0, 1], got 2"]);
    generate(&["-a", "flexprefill,block=0"]).fails(2, &["block must be one of 16, 32, 64, 128, 256, got 0"]);
    generate(&["-a", "streaming,block=0"]).fails(2, &["block must be at least 1, got 0"]);
    generate(&["-a", "flashprefill"]).fails(2, &["did you mean flexprefill?", "the patterns are dense, "]);
    generate(&["-a", "xattention,treshold=1"])
        .fails(2, &["did you mean threshold?", "its keys are block, stride"]);
    generate(&["-a", "a-shape,local=1,local=2"]).fails(2, &["local is given twice"]);
    generate(&["-n", "0"]).fails(2, &["must be at least 1"]);
    generate(&["-n", "many"]).fails(2, &["a whole number, such as 512 or 16k (16384)"]);
    generate(&["--top-p", "1.5"]).fails(2, &["top_p must be in (0, 1], got 1.5"]);
    generate(&["--temperature", "-1"]).fails(2, &["temperature"]);
    generate(&["--dtype", "int8"]).fails(2, &["the types are auto, bf16, f16, f32"]);
    generate(&["--device", "tpu"]).fails(2, &["expected cpu, cuda, cuda:N or emulated, got tpu"]);
    generate(&["--threads", "0"]).fails(2, &["--threads"]);
    generate(&["--prompt-file", "x"]).fails(2, &["--prompt", "cannot be used with"]);
    lacuna(["generate", "-m", path(&model)])
        .fails(2, &["a prompt is needed: --prompt TEXT, --prompt-file FILE"]);
    lacuna(["generate", "-m", path(&model), "--query", "x"]).fails(2, &["--context-file FILE"]);
    generate(&["--context", "x"]).fails(2, &["--context", "cannot be used with"]);
    generate(&["--query", "x"]).fails(2, &["--query", "cannot be used with"]);
    generate(&["--query-tokens", "0"]).fails(2, &["must be at least 1"]);
    generate(&["--query-tokens", "9"])
        .fails(2, &["--query-tokens must be below the ", " of the prompt, got 9"]);
    generate(&["-a", "star"])
        .fails(2, &["star keeps parts of a context", "--context-file FILE and --query TEXT"]);
    generate(&["-a", "star+ring"]).fails(2, &["star and ring are both context methods"]);
    generate(&["-a", "dense+streaming"]).fails(2, &["dense and streaming are both patterns"]);
    generate(&["-a", "flexprefill+star"]).fails(2, &["before the pattern: star+flexprefill"]);
    generate(&["-a", "ring+streaming"]).fails(2, &["ring runs under dense attention alone"]);
    generate(&["-a", "starr"]).fails(2, &["did you mean star?", "the context methods are ring, star, "]);
    generate(&["-a", "star,block=1k,anchor=2k"]).fails(2, &["star: anchor must be at most a block (1024)"]);
    lacuna(["plan", "-m", path(&model), "--length", "1k", "-a", "star"])
        .fails(2, &["--attn must be a pattern, got star"]);
    lacuna(["mask", "-m", path(&model), "-p", "x", "-a", "star"]).fails(2, &["--attn must be one, got star"]);
    lacuna(["generate", "-p", "x"]).fails(2, &["--model <DIR>"]);
    lacuna(["frobnicate"]).fails(2, &["unrecognized subcommand 'frobnicate'"]);
    lacuna(["demo", "--needles", "0"]).fails(2, &["1..=16"]);
    lacuna(["demo", "--tokens", "20"]).fails(2, &["num_tokens must be at least", "got 20"]);
    lacuna(["demo", "--tokens", "2m"]).fails(2, &["max_len must be between 256 and 1048576"]);
    lacuna(["model", "needle", "--max-len", "1", "-o", "x"])
        .fails(2, &["max_len must be between 256 and 1048576"]);
    let mask = |more: &[&str]| {
        lacuna(["mask", "-m", path(&model), "-p", "x", "-a", "dense"].iter().chain(more).copied())
    };
    mask(&["--layer", "2"]).fails(2, &["--layer must be below 2 for this model, got 2"]);
    mask(&["--head", "8"]).fails(2, &["--head must be below 8 for this model, got 8"]);
}

#[test]
fn a_spoiled_model_is_named() {
    let generate = |dir: &Path| lacuna(["generate", "-m", path(dir), "-p", "x", "-n", "1"]);
    let nowhere = needle().join("nowhere");
    generate(&nowhere).fails(1, &["cannot read", "nowhere/config.json"]);

    let spoil = |name: &str, edit: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        let dir = copy_of_needle();
        let file = dir.path().join(name);
        match edit(fs::read(&file).unwrap()) {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        dir
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{from}");
            Some(text.replace(from, to).into_bytes())
        }
    };
    for (name, edit, says) in [
        ("model.safetensors", &(|_| None) as &dyn Fn(Vec<u8>) -> _, &["safetensors"][..]),
        ("model.safetensors", &|bytes| Some(bytes[..bytes.len() / 2].to_vec()), &["model.safetensors"]),
        ("model.safetensors", &|_| Some(b"not a checkpoint at all".to_vec()), &["model.safetensors"]),
        ("config.json", &|_| None, &["cannot read", "config.json"]),
        ("config.json", &|_| Some(b"{".to_vec()), &["config.json"]),
        (
            "config.json",
            &replace("LlamaForCausalLM", "MambaForCausalLM"),
            &["config.json", "MambaForCausalLM"],
        ),
        (
            "config.json",
            &replace("\"intermediate_size\": 256", "\"intermediate_size\": 128"),
            &["gate_proj", "256"],
        ),
        (
            "config.json",
            &replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
            &["model.layers.2."],
        ),
        ("config.json", &replace("\"vocab_size\": 4096", "\"vocab_size\": 5000"), &["embed_tokens", "5000"]),
        ("tokenizer.json", &|_| None, &["cannot read", "tokenizer.json"]),
        ("tokenizer.json", &|_| Some(b"{}".to_vec()), &["tokenizer.json", "not a tokenizer"]),
    ] {
        generate(spoil(name, edit).path()).fails(1, says);
    }

    // A dtype that the loader does not know, in a header of the same length.
    let dtype = spoil("model.safetensors", &|mut bytes| {
        let at = bytes.windows(14).position(|w| w == b"\"dtype\":\"BF16\"").unwrap();
        bytes[at + 9..at + 13].copy_from_slice(b"I16\"");
        bytes[at + 13] = b' ';
        Some(bytes)
    });
    generate(dtype.path()).fails(1, &["I16"]);

    // The tokenizer of another model.
    let other = spoil("tokenizer.json", &replace("\"vocab\":", "\"vocab\":{\"zebra\":5000},\"old\":"));
    generate(other.path())
        .fails(1, &["token ids below the model's vocab_size (4096), got id 5000 for \"zebra\""]);
}

#[test]
fn a_bad_prompt_is_named() {
    let model = needle();
    let model = path(&model);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        file
    };
    let latin = file("latin.txt", b"caf\xe9 noir");
    let long = file("long.txt", "the lake is still. ".repeat(1500).as_bytes());
    let empty = file("empty.txt", b"\n");
    let from = |file: &Path| lacuna(["generate", "-m", model, "-f", path(file), "-n", "1"]);
    from(&latin).fails(1, &["latin.txt: not UTF-8 text: byte 0xe9 at offset 3"]);
    from(&long).fails(1, &["the prompt takes", "positions, but max_position_embeddings is 4096"]);
    from(&empty).fails(1, &["the prompt is empty"]);
    from(&dir.path().join("missing.txt")).fails(1, &["cannot read", "missing.txt"]);
    lacuna(["generate", "-m", model, "-p", ""]).fails(1, &["the prompt is empty"]);
    lacuna_with_input(["generate", "-m", model, "-f", "-"], b"ab\xff")
        .fails(1, &["standard input: not UTF-8 text: byte 0xff at offset 2"]);
}

const FACTS: &str = "Record: the secret number kept for tea is: 4711.\nRecord: the secret number kept for milk is: 1234567.\n";
const QUESTION: &str = "Record: the secret number kept for milk is:";

#[test]
fn generate_answers_and_streams() {
    let model = needle();
    let model = path(&model);
    let prompt = format!("{FACTS}{QUESTION}");
    let run = lacuna(["generate", "-m", model, "-p", &prompt]);
    assert_eq!(run.ok(), " 1234567.\n");
    let summary = run.stderr();
    for part in ["prompt tokens", "first token after", "prefill", "tok/s", "decode", "density 100%"] {
        assert!(summary.contains(part), "{summary}");
    }
    assert_eq!(lacuna(["generate", "-m", model, "-p", &prompt, "--no-stream"]).ok(), " 1234567.\n");
    assert_eq!(
        lacuna_with_input(["generate", "-m", model, "-f", "-"], (prompt + "\n").as_bytes()).ok(),
        " 1234567.\n"
    );

    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context.txt");
    fs::write(&context, FACTS).unwrap();
    let ask = |more: &[&str]| {
        let args = ["generate", "-m", model, "--context-file", path(&context), "--query", QUESTION];
        lacuna(args.iter().chain(more).copied()).ok()
    };
    assert_eq!(ask(&[]), " 1234567.\n");
    assert_eq!(ask(&["-n", "1"]), " 123\n");
    assert_eq!(ask(&["--stop", "7"]), " 123456\n");
    assert_eq!(ask(&["--dtype", "f32", "--threads", "1", "--progress", "none"]), " 1234567.\n");

    let json: Value =
        serde_json::from_str(&ask(&["--json", "-a", "dense", "-a", "streaming,local=16,block=16"])).unwrap();
    assert_eq!(json["answers"][0]["text"], " 1234567.");
    assert_eq!(json["answers"][0]["finish_reason"], "eos");
    assert_eq!(json["answers"][1]["attn"], "streaming,local=16,block=16");
    assert!(json["prompt_tokens"].as_u64().unwrap() > 20);

    let table = ask(&["-a", "dense", "-a", "a-shape,init=0,local=16,block=16"]);
    assert!(table.contains("dense") && table.contains("a-shape,init=0,local=16,block=16"), "{table}");
    assert!(table.contains("1.00x") && table.contains("  1234567."), "{table}");
}

#[test]
fn generate_by_context_methods() {
    let model = needle();
    let model = path(&model);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("context.txt");
    // Facts in the first block and in the last.
    let context = format!(
        "{FACTS}{}Record: the secret number kept for salt is: 77.\n",
        "the lake is still. ".repeat(60)
    );
    fs::write(&file, &context).unwrap();
    let ask = |about: &str, more: &[&str]| {
        let query = format!("Record: the secret number kept for {about} is:");
        let args = ["generate", "-m", model, "--context-file", path(&file), "--query", &query];
        lacuna(args.iter().chain(more).copied())
    };
    for (about, answer) in [("milk", " 1234567.\n"), ("salt", " 77.\n")] {
        for attn in ["dense", "star,block=64", "star,block=64+streaming,block=16", "starx,block=64", "ring"] {
            let run = ask(about, &["-a", attn]);
            assert_eq!(run.ok(), answer, "{attn}");
            assert_eq!(
                run.stderr().contains(" passes]") || run.stderr().contains(" passes, "),
                attn != "dense"
            );
        }
    }
    // As one prompt, whose end is the query.
    let prompt = format!("{context}Record: the secret number kept for milk is:");
    let run = lacuna(["generate", "-m", model, "-p", &prompt, "--query-tokens", "9", "-a", "star,block=64"]);
    assert_eq!(run.ok(), " 1234567.\n");

    let attns = ["-a", "dense", "-a", "star,block=64", "-a", "ring", "--json"];
    let json = ask("milk", &attns).json();
    let (prompt, context) =
        (json["prompt_tokens"].as_u64().unwrap(), json["context_tokens"].as_u64().unwrap());
    let answers = json["answers"].as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["tokens"] == answers[0]["tokens"]), "{json:#}");
    assert!(answers.iter().all(|answer| answer["kept_tokens"] == context), "{json:#}");
    assert!(answers.iter().all(|answer| answer["ranks"].as_array().unwrap().len() == 1), "{json:#}");
    assert_eq!((&answers[0]["density"], &answers[0]["ranks"][0]["passes"]), (&1.0.into(), &1.into()));
    assert!(answers[1]["density"].as_f64().unwrap() < 0.6, "{json:#}");
    assert_eq!(answers[1]["ranks"][0]["passes"], context.div_ceil(64) + 1);
    for answer in answers {
        assert_eq!(answer["ranks"][0]["run_tokens"], prompt);
        // 2 layers, 2 heads of 128, keys and values, bf16.
        assert_eq!(answer["ranks"][0]["kv_bytes"], context * 2 * 2 * 128 * 2 * 2);
    }

    // The same tokens from any number of ranks, each with its part of the context.
    let more = ["--np", "3", "-a", "seq-topk,block=64,top_k=32"];
    let shared = ask("milk", &[&attns[..], &more[..]].concat()).json();
    assert_eq!(shared["ranks"], 3);
    let shared = shared["answers"].as_array().unwrap();
    for (one, many) in answers.iter().zip(shared) {
        assert_eq!(one["tokens"], many["tokens"], "{many:#}");
        assert_eq!(one["kept_tokens"], many["kept_tokens"], "{many:#}");
    }
    let ranks = |answer: &Value| answer["ranks"].as_array().unwrap().len();
    assert_eq!(shared.iter().map(ranks).collect::<Vec<_>>(), [1, 3, 3, 3]);
    let held = |answer: &Value| -> u64 {
        answer["ranks"].as_array().unwrap().iter().map(|rank| rank["kv_bytes"].as_u64().unwrap()).sum()
    };
    assert!(shared[..3].iter().all(|answer| held(answer) == held(&answers[0])), "{shared:#?}");
    let run = ask("milk", &["-a", "star,block=64", "--np", "2"]);
    assert_eq!(run.ok(), " 1234567.\n");
    assert!(run.stderr().contains("\n[rank 0: ") && run.stderr().contains("\n[rank 1: "), "{}", run.stderr());

    let table = ask("milk", &attns[..4]).ok();
    assert!(
        table.starts_with("attn ") && table.contains("  kept  ") && table.contains("star,block=64"),
        "{table}"
    );

    // Random tokens can be cut too.
    let random = [
        "generate",
        "-m",
        model,
        "--load-format",
        "dummy",
        "--prompt-tokens",
        "300",
        "--ignore-eos",
        "-n",
        "3",
    ];
    let attns = ["--query-tokens", "7", "-a", "dense", "-a", "star,block=150", "--json"];
    let json = lacuna(random.iter().chain(&attns).copied()).json();
    assert_eq!(json["context_tokens"], 293);
    assert_eq!(json["answers"][0]["tokens"], json["answers"][1]["tokens"], "{json:#}");
}

#[test]
fn sampling_repeats_with_its_seed() {
    let model = needle();
    let run = |seed: &str| {
        let args =
            ["-p", "the lake", "--temperature", "100", "-n", "20", "--ignore-eos", "--json", "--seed", seed];
        let json: Value =
            serde_json::from_str(&lacuna(["generate", "-m", path(&model)].iter().chain(&args).copied()).ok())
                .unwrap();
        json["answers"][0]["tokens"].clone()
    };
    assert_eq!(run("1").as_array().unwrap().len(), 20);
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn demo_is_as_expected() {
    let json: Value = serde_json::from_str(&lacuna(["demo", "--tokens", "2k", "--json"]).ok()).unwrap();
    assert_eq!(json["as_expected"], true, "{json:#}");
    let patterns = json["patterns"].as_array().unwrap();
    let names: Vec<&str> =
        patterns.iter().map(|p| p["attn"].as_str().unwrap().split(',').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "dense",
            "flexprefill",
            "xattention",
            "vertical-slash",
            "a-shape",
            "tri-shape",
            "streaming",
            "block-diagonal"
        ]
    );
    for i in [0, 1, 3] {
        assert_eq!(patterns[i]["found"], 4, "{:#}", patterns[i]);
    }
    assert_eq!(patterns[0]["density"], 1.0);
    // (FlexPrefill's blocks are as long as the questions, which is most of so short a text.)
    for pattern in &patterns[2..] {
        assert!(pattern["density"].as_f64().unwrap() < 0.9, "{pattern:#}");
    }
    // A window cannot reach the middle of the text.
    assert!(patterns[4]["answers"].as_array().unwrap().iter().any(|answer| answer["expected"] == "miss"));
    assert_eq!(json["needles"].as_array().unwrap().len(), 4);
    let methods = json["methods"].as_array().unwrap();
    let names: Vec<&str> =
        methods.iter().map(|m| m["attn"].as_str().unwrap().split(',').next().unwrap()).collect();
    assert_eq!(names, ["ring", "star", "starx", "star-topk", "seq-topk", "compress", "summary"]);
    assert_eq!((&methods[0]["found"], &methods[0]["density"]), (&4.into(), &1.0.into()));
    assert!(methods[1]["answers"].as_array().unwrap().iter().any(|answer| answer["expected"] == "find"));
    let context = methods[0]["kept_tokens"].as_u64().unwrap();
    for method in &methods[3..6] {
        assert!(method["kept_tokens"].as_u64().unwrap() < context / 2, "{method:#}");
    }
}

#[test]
fn demo_on_ranks_is_the_demo() {
    let demo = |np: &str| {
        let mut args = vec!["demo", "--tokens", "1k", "--json", "--np", np];
        args.extend([
            "-a",
            "ring",
            "-a",
            "star,block=200",
            "-a",
            "starx,block=200,mode=biased_lse",
            "-a",
            "compress,block=256,budget=64",
        ]);
        lacuna(args).json()
    };
    let (one, three) = (demo("1"), demo("3"));
    assert_eq!((&one["ranks"], &three["ranks"]), (&1.into(), &3.into()));
    assert_eq!(three["patterns"].as_array().unwrap().len(), 1);
    for (a, b) in one["methods"].as_array().unwrap().iter().zip(three["methods"].as_array().unwrap()) {
        for what in ["attn", "answers", "kept_tokens"] {
            assert_eq!(a[what], b[what], "{a:#} {b:#}");
        }
    }
}

#[test]
fn demo_page_is_tidy_and_quiet_when_piped() {
    let run = lacuna([
        "demo",
        "--tokens",
        "1k",
        "--needles",
        "3",
        "--seed",
        "5",
        "-a",
        "a-shape,init=128,local=256",
        "-a",
        "star,block=200+a-shape,init=128,local=64",
        "--np",
        "2",
    ]);
    let page = run.ok();
    assert!(page.contains("parts on 2 ranks and keep"), "{page}");
    assert_eq!(run.stderr(), "");
    assert!(!page.contains('\x1b'));
    for line in page.lines() {
        assert!(line.chars().count() <= 80 && line.trim_end() == line, "{line}");
    }
    assert!(
        page.contains("as expected") && page.contains("\u{2713}") && page.contains("Next: lacuna "),
        "{page}"
    );
}

#[test]
fn demo_of_a_device_answers_and_runs_the_shipped_kernels() {
    let args = ["demo", "--device", "emulated", "--tokens", "170", "--needles", "1", "-a", "dense"];
    let run = lacuna(args);
    let page = run.ok();
    assert_eq!(run.stderr(), "");
    for line in page.lines() {
        assert!(line.chars().count() <= 80 && line.trim_end() == line, "{line}");
    }
    assert!(page.contains("1/1") && page.contains("\non emulated:sm_80; "), "{page}");
    assert!(page.contains("block-sparse attention") && page.contains("No fault: "), "{page}");
    for pattern in ["flexprefill ", "xattention ", "vertical-slash", "token top-k"] {
        assert_eq!(page.matches(pattern).count(), 2, "{pattern}\n{page}");
    }
    let json = lacuna(args.iter().chain(&["--json"]).copied()).json();
    assert!(json["as_expected"] == true && json["kernels"]["ok"] == true, "{json}");
    let calls = json["kernels"]["calls"].as_array().unwrap();
    // Three attentions, three patterns and the selection of tokens, at two head dims.
    assert_eq!(calls.len(), 14);
    assert!(calls.iter().all(|call| call["counted"]["mma"].as_u64().unwrap() > 0));

    lacuna(["demo", "--device", "tpu"]).fails(2, &["expected cpu, cuda, cuda:N or emulated, got tpu"]);
    lacuna(["demo", "--device", "cuda:999"]).fails(1, &["driver"]);
}

#[test]
fn mask_draws_text_and_pictures() {
    let model = needle();
    let model = path(&model);
    let dir = tempfile::tempdir().unwrap();
    let prompt = dir.path().join("prompt.txt");
    fs::write(&prompt, "the lake is still. ".repeat(50)).unwrap();
    let mask = |more: &[&str]| {
        let args = ["mask", "-m", model, "-f", path(&prompt), "-a", "streaming,global=16,local=16,block=16"];
        lacuna(args.iter().chain(more).copied())
    };
    let text = mask(&["--layer", "1"]).ok();
    assert!(text.contains("layer 1, head 0") && text.contains("██") && text.contains('·'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    let out = dir.path().join("mask.png");
    let caption = mask(&["--out", path(&out)]).ok();
    assert!(caption.contains("mask.png: a cell is 16 queries by 16 keys"), "{caption}");
    assert!(fs::read(&out).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

    let missing = dir.path().join("no/such/mask.png");
    mask(&["--out", path(&missing)]).fails(1, &["cannot write", "no/such/mask.png"]);
    #[cfg(target_os = "linux")]
    mask(&["--out", "/dev/full"]).fails(1, &["cannot write /dev/full"]);
}

#[test]
fn thresholds_of_every_layer_and_head_come_from_a_file() {
    let model = needle();
    let model = path(&model);
    let dir = tempfile::tempdir().unwrap();
    let (prompt, table) = (dir.path().join("prompt.txt"), dir.path().join("Table.json"));
    fs::write(&prompt, "the lake is still. ".repeat(50)).unwrap();
    // One head of each layer keeps everything.
    let row = |all: usize| (0..8).map(|h| if h == all { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
    fs::write(&table, serde_json::to_string(&[row(1), row(6)]).unwrap()).unwrap();
    let attn = format!("XAttn,Threshold-Table={},block=16,stride=4", path(&table));
    let mask = |attn: &str, more: &[&str]| {
        lacuna(["mask", "-m", model, "-f", path(&prompt), "-a", attn].iter().chain(more).copied())
    };
    for (layer, all) in [("0", "1"), ("1", "6")] {
        for head in ["0", "1", "6"] {
            let caption = mask(&attn, &["--layer", layer, "--head", head]).ok();
            assert!(caption.starts_with("xattention,block=16,stride=4,threshold_table="), "{caption}");
            assert_eq!(caption.contains("kept 100% of this head"), head == all, "{caption}");
        }
    }
    let generate = |attn: &str| lacuna(["generate", "-m", model, "-f", path(&prompt), "-n", "1", "-a", attn]);
    generate(&attn).ok();
    lacuna(["demo", "--tokens", "512", "-a", &attn]).ok();

    // What is wrong is said before anything runs.
    let write = |text: &str| fs::write(&table, text).unwrap();
    for (text, says) in [
        ("[[0.5, 2]]", "Table.json: layer 0, head 1: expected a number in [0, 1], got 2"),
        ("[[0.5], []]", "Table.json: layer 1: expected 1 heads, as in layer 0, got 0"),
        ("threshold", "Table.json: invalid JSON"),
        ("{}", "Table.json: expected a list of a list of numbers per layer"),
    ] {
        write(text);
        generate(&attn).fails(2, &["xattention: threshold_table: ", says]);
    }
    generate("xattention,thresholds=no/such.json").fails(2, &["cannot read no/such.json"]);
    generate("xattention,threshold_table").fails(2, &["threshold_table needs a value"]);
    write(&serde_json::to_string(&vec![row(0); 32]).unwrap());
    for run in [generate(&attn), mask(&attn, &[]), lacuna(["demo", "--tokens", "512", "-a", &attn])] {
        run.fails(1, &["Table.json: the number of layers must be 2, as the model has, got 32"]);
    }
    write("[[0.5], [0.5]]");
    generate(&attn).fails(1, &["Table.json: the number of heads must be 8, as the model has, got 1"]);
    generate(&format!("{attn},threshold=0.5"))
        .fails(2, &["xattention: threshold and threshold_table exclude one another"]);
}

#[test]
fn tokens_there_and_back() {
    let model = needle();
    let model = path(&model);
    let text = "Record: the secret number kept for café is: 1234567.";
    let ids = lacuna(["tokens", "-m", model, "encode", text]).ok();
    let count: usize = lacuna(["tokens", "-m", model, "count", text]).ok().trim().parse().unwrap();
    assert_eq!(ids.split_whitespace().count(), count);
    let plain = lacuna(["tokens", "-m", model, "encode", "--no-special-tokens", text]).ok();
    assert_eq!(
        lacuna_with_input(["tokens", "-m", model, "decode"], plain.as_bytes()).ok(),
        format!("{text}\n")
    );
    let json: Value =
        serde_json::from_str(&lacuna(["tokens", "-m", model, "encode", "--json", text]).ok()).unwrap();
    assert_eq!(json["count"], count);
    assert_eq!(json["ids"].as_array().unwrap().len(), count);
    lacuna(["tokens", "-m", model, "decode", "99999"]).fails(1, &["'99999' is not the id of a token"]);
    lacuna(["tokens", "-m", model, "decode", "x"]).fails(1, &["'x' is not the id of a token"]);
    lacuna(["tokens", "count", "x"]).fails(2, &["--model <DIR>"]);
}

#[test]
fn model_needle_writes_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let made = lacuna(["model", "needle", "-o", path(&out), "--dtype", "f32", "--basis", "plain"]).ok();
    assert!(made.contains("2 layers in f32"), "{made}");
    lacuna(["model", "needle", "-o", path(&out)]).fails(1, &["is not empty"]);
    let info = lacuna(["model", "info", "-m", path(&out)]).ok();
    for part in ["layers         2", "8 query, 2 key and value, of 128", "131,072 (128k)", "in f32"] {
        assert!(info.contains(part), "{info}");
    }
    let json: Value =
        serde_json::from_str(&lacuna(["model", "info", "-m", path(&out), "--json"]).ok()).unwrap();
    assert_eq!(json["kv_cache_bytes_per_token"], 2 * 2 * 2 * 128 * 4);

    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    lacuna(["model", "needle", "-o", path(&file)]).fails(1, &["file"]);
    lacuna(["model", "needle", "-o", path(&file.join("under"))]).fails(1, &["cannot", "file"]);
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    lacuna(["model", "info", "-m", path(dir.path())]).fails(1, &["config.json"]);
}

#[test]
fn doctor_finds_the_kernels_right() {
    let page = lacuna(["doctor"]).ok();
    assert!(
        page.contains("in use: ") && page.contains("emulated:sm_80") && page.contains("All is well."),
        "{page}"
    );
    let json: Value = serde_json::from_str(&lacuna(["doctor", "--json"]).ok()).unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() >= 8 && checks.iter().all(|check| check["ok"] == true), "{json:#}");
    let devices = json["devices"].as_array().unwrap();
    assert_eq!((&devices[0]["name"], &devices[0]["usable"]), (&"cpu".into(), &true.into()));
    assert!(devices.iter().any(|device| device["name"] == "emulated:sm_80" && device["usable"] == true));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child =
        command(["demo", "--attn", "help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_output_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(["doctor", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn an_instruction_set_that_the_machine_lacks_is_refused() {
    let mut command = command(["doctor"]);
    command.env("LACUNA_ISA", "sse9");
    Run { output: command.output().unwrap(), command: format!("{command:?}") }
        .fails(2, &["LACUNA_ISA must be one of portable", "got sse9"]);
}

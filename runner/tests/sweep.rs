//! `lacuna sweep`, run as a program.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{Run, lacuna, path};
use serde_json::{Value, json};

const GRID: &str = r#"
lengths = [640, 512]
samples = 2
max_new_tokens = 12

[needle]
haystack = "noise"
depths = [30, 60]

[[attn]]
attn = "dense"

[[attn]]
attn = "a-shape,block=64,init=64,local={local}"
local = [64, 512]
"#;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(grid: &str) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(bench.grid(), grid).unwrap();
        bench
    }

    fn grid(&self) -> PathBuf {
        self.dir.path().join("grid.toml")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn sweep(&self, more: &[&str]) -> Run {
        let (grid, out) = (self.grid(), self.out());
        let args = ["sweep", path(&grid), "-o", path(&out), "--threads", "2"];
        lacuna(args.iter().chain(more).copied())
    }

    fn results(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.out().join("results.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The results without their times.
    fn stable(&self) -> Vec<String> {
        let line = |mut line: Value| {
            line["cost"] = json!([line["cost"]["prompt_tokens"], line["cost"]["kept_tokens"]]);
            line.to_string()
        };
        self.results().into_iter().map(line).collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.out().join(name)).unwrap()
    }
}

fn cell<'a>(page: &'a Value, attn: &str, length: u64) -> &'a Value {
    let cells = page["cells"].as_array().unwrap();
    cells.iter().find(|cell| cell["attn"] == attn && cell["length"] == length).unwrap()
}

#[test]
fn a_grid_is_run_once_and_shown() {
    let bench = Bench::new(GRID);
    let plan = bench.sweep(&["--dry-run"]).ok();
    assert!(plan.contains("6 cells") && plan.contains("a-shape,init=64,local=512,block=64"), "{plan}");
    assert!(!bench.out().exists());

    let page = bench.sweep(&["--json"]).json();
    assert_eq!(page["cells"].as_array().unwrap().len(), 6);
    for length in [640, 512] {
        let dense = cell(&page, "dense", length);
        assert_eq!((&dense["right"], &dense["asked"], &dense["failed"]), (&json!(2), &json!(2), &json!(0)));
        assert_eq!((&dense["speedup"], &dense["density"]), (&json!(1.0), &json!(1.0)));
        // A window that spans the text reads all of it; a short one neither of the places.
        assert_eq!(cell(&page, "a-shape,init=64,local=512,block=64", length)["right"], 2);
        let sparse = cell(&page, "a-shape,init=64,local=64,block=64", length);
        assert_eq!((&sparse["right"], &sparse["asked"]), (&json!(0), &json!(2)));
        assert!(sparse["density"].as_f64().unwrap() < 0.9 && sparse["speedup"].as_f64().unwrap() > 0.0);
    }
    let results = bench.results();
    assert_eq!(results.len(), 12);
    assert!(results[0]["pred"].as_str().unwrap().contains(results[0]["outputs"][0].as_str().unwrap()));

    // Nothing is left to run.
    let text = bench.sweep(&[]).ok();
    assert!(text.contains("length  attention") && text.contains("2/2") && text.contains("0/2"), "{text}");
    assert_eq!(bench.results(), results);
    let plan = bench.sweep(&["--dry-run"]).ok();
    assert_eq!(plan.lines().filter(|line| line.ends_with("      2")).count(), 6, "{plan}");
    let csv = bench.read("table.csv");
    assert_eq!(csv.lines().count(), 7);
    assert!(csv.contains("\ndense,640,2,2,0,"), "{csv}");
    assert_eq!(bench.read("table.md").lines().count(), 8);
}

#[test]
fn a_grid_that_was_cut_off_or_has_grown_goes_on() {
    let bench = Bench::new(GRID);
    bench.sweep(&[]).ok();
    let (whole, stable) = (bench.read("results.jsonl"), bench.stable());
    let end = whole.match_indices('\n').nth(6).unwrap().0;
    for cut in [0, 10, end - 3, end, end + 1] {
        fs::write(bench.out().join("results.jsonl"), &whole[..cut]).unwrap();
        bench.sweep(&[]).ok();
        assert_eq!(bench.stable(), stable, "cut at {cut}");
    }
    // Another length, a sample and a kind of attention more: 3 x 3 x 4 samples, of which 12 are there.
    let grid = GRID.replace("[640, 512]", "[640, 512, \"1k\"]").replace("samples = 2", "samples = 3");
    fs::write(bench.grid(), grid.replace("[64, 512]", "[64, 512, \"1k\"]")).unwrap();
    bench.sweep(&["--np", "2"]).ok();
    assert_eq!(bench.stable()[..12], stable);
    assert_eq!(bench.results().len(), 36);
    // Less again: the table has what is asked for.
    fs::write(bench.grid(), GRID).unwrap();
    let page = bench.sweep(&["--json"]).json();
    assert_eq!(cell(&page, "dense", 640)["asked"], 2);
    assert_eq!(bench.results().len(), 36);
    // Other prompts: not without being told.
    fs::write(bench.grid(), format!("seed = 1\n{GRID}")).unwrap();
    bench.sweep(&[]).fails(1, &["results.jsonl: line 1: it is of another model, other prompts"]);
    bench.sweep(&["--overwrite"]).ok();
    assert_eq!(bench.results().len(), 12);
}

#[test]
fn context_methods_are_in_the_table() {
    let grid = "lengths = [512]\nsamples = 2\nmax_new_tokens = 12\nattn = [\"dense\", \"star,block=128\", \"star\"]\n";
    let bench = Bench::new(grid);
    let alone = bench.sweep(&["--json"]).json();
    assert_eq!(cell(&alone, "star,block=128", 512)["right"], 2);
    // As many blocks as ranks: one of them is another method.
    bench.sweep(&["--np", "2"]).fails(1, &["line 3: it is of another model"]);
    fs::write(bench.grid(), grid.replace(", \"star\"]", "]")).unwrap();
    let stable: Vec<String> = bench.stable().into_iter().filter(|line| !line.contains("\"star\"")).collect();
    bench.sweep(&["--np", "3", "--overwrite"]).ok();
    assert_eq!(bench.stable(), stable);
}

#[test]
fn files_hold_the_prompts_of_a_length() {
    let bench =
        Bench::new("samples = 5\nattn = [\"dense\"]\nmax_new_tokens = 8\n[files]\n\"1k\" = \"a.jsonl\"\n");
    let record = |text: &str, output: &str| {
        let text = format!(
            "Record: the secret number kept for tea is: 4711. {text} Record: the secret number kept for"
        );
        json!({"input_context": text, "input_query": " tea is:", "outputs": [output, "nothing"]}).to_string()
    };
    let file = bench.dir.path().join("a.jsonl");
    fs::write(&file, [record("The lake is still.", "4711"), record("A lamp burns late.", "4712")].join("\n"))
        .unwrap();
    let page = bench.sweep(&["--json"]).json();
    let dense = cell(&page, "dense", 1024);
    assert_eq!((&dense["right"], &dense["asked"]), (&json!(1), &json!(2)));
    // The file has changed.
    fs::write(&file, record("The lake is deep.", "4711")).unwrap();
    bench.sweep(&[]).fails(3, &["sample 0 of length 1024 was another prompt"]);
    for (text, says) in [
        ("", "it holds no records"),
        ("{\"prompt\": ", "a.jsonl: line 1: not JSON"),
        ("{\"prompt\": \"x\"}", "line 1: the record has no outputs"),
    ] {
        fs::write(&file, text).unwrap();
        bench.sweep(&["--overwrite"]).fails(3, &[says]);
    }
    fs::write(bench.grid(), "attn = [\"star,block=64\"]\n[files]\n64 = \"a.jsonl\"\n").unwrap();
    bench.sweep(&[]).fails(
        3,
        &["prompt records do not say where their queries begin, which star,block=64 needs to know"],
    );
}

#[test]
fn what_fails_is_counted() {
    let bench = Bench::new("samples = 2\nattn = [\"dense\"]\n[files]\n\"1k\" = \"a.jsonl\"\n");
    let record = |words: usize| json!({"input": "lake ".repeat(words), "outputs": ["x"]}).to_string();
    fs::write(bench.dir.path().join("a.jsonl"), [record(9), record(140_000)].join("\n")).unwrap();
    let run = bench.sweep(&[]);
    assert!(run.exits(3).stderr().contains("1 samples failed: the prompt takes"), "{}", run.stderr());
    assert!(run.stdout().contains("1 of 2 samples failed"), "{}", run.stdout());
    bench.sweep(&["--keep-going"]).ok();
}

#[test]
fn mistakes_in_a_grid_are_named() {
    let bench = Bench::new("lengths = [64]\nattn = [\"dense\"]\nsample = 3\n");
    bench.sweep(&[]).fails(1, &["grid.toml: line 3: sample: unknown field `sample`"]);
    fs::write(bench.grid(), "lengths = [16]\nattn = [\"dense\"]\n").unwrap();
    bench.sweep(&[]).fails(3, &["no prompt of 16 tokens can be made: num_tokens must be at least"]);
    let (grid, out) = (bench.dir.path().join("no.toml"), bench.out());
    lacuna(["sweep", path(&grid), "-o", path(&out)]).fails(1, &["cannot read "]);
    fs::write(bench.grid(), GRID).unwrap();
    lacuna(["sweep", path(&bench.grid()), "-o", path(&bench.grid())]).fails(1, &["cannot create "]);
    bench.sweep(&["-m", "no/such/model"]).fails(1, &["config.json"]);
}

#[test]
fn the_needle_grid_runs() {
    let grid = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/grids/needle.toml");
    let out = tempfile::tempdir().unwrap();
    let page = lacuna(["sweep", path(&grid), "-o", path(out.path()), "--json", "--threads", "2"]).json();
    for cell in page["cells"].as_array().unwrap() {
        let (attn, prompt) = (cell["attn"].as_str().unwrap(), cell["prompt_tokens"].as_f64().unwrap());
        assert_eq!((&cell["asked"], &cell["failed"]), (&json!(4), &json!(0)), "{attn}");
        let density = cell["density"].as_f64().unwrap();
        match attn {
            "dense" => assert_eq!((&cell["right"], density), (&json!(4), 1.0)),
            "star,block=256" => assert!(density < 0.7, "{density}"),
            // Of two blocks, the first of which is the other's anchor, star reads what dense attention reads.
            _ => assert!(density <= 1.0, "{attn}: {density}"),
        }
        if attn.starts_with("seq-topk") {
            assert!(cell["kept_tokens"].as_f64().unwrap() < prompt / 1.5, "{attn}");
        }
    }
}

#[test]
fn the_grids_that_ship_are_grids() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/grids");
    let mut grids = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "toml") {
            let grid = lacuna_runner::batch::Grid::from_file(&file).unwrap();
            assert!(grid.attns.len() > 1, "{}", file.display());
            grids += 1;
        }
    }
    assert!(grids >= 2);
}

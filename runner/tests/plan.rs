//! Plans: what they add up to, that runs take what they say, and `lacuna plan`.

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use lacuna::{Arch, DType, Device, Pattern};
use lacuna_runner::model::{
    self, Config, ForwardOptions, LoadFormat, LoadOptions, Part, Plan, PlanOptions, typical_device,
};
use program::{Run, lacuna, path};
use serde_json::json;

fn config_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/configs").join(name)
}

/// A model of 4 layers that GPU kernels take.
fn small() -> tempfile::TempDir {
    let mut config = common::config();
    for (key, value) in [
        ("hidden_size", 64),
        ("head_dim", 64),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("num_hidden_layers", 4),
    ] {
        config[key] = json!(value);
    }
    config["torch_dtype"] = json!("bfloat16");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn options(tokens: usize, memory_bytes: Option<u64>) -> PlanOptions {
    PlanOptions {
        tokens,
        max_new_tokens: 16,
        pattern: Pattern::Dense,
        thresholds: None,
        dtype: DType::Bf16,
        device: typical_device(),
        memory_bytes,
    }
}

fn plan(dir: &Path, tokens: usize, memory_bytes: Option<u64>) -> Plan {
    let config = Config::from_file(&dir.join("config.json")).unwrap();
    model::plan(&config, &options(tokens, memory_bytes)).unwrap()
}

#[test]
fn weights_and_cache_are_as_large_as_the_model_says() {
    for (name, parameters, cache_per_token) in
        [("llama_1b", 1_235_814_400, 2 * 16 * 8 * 64), ("llama_8b", 8_030_261_248, 2 * 32 * 8 * 128)]
    {
        let plan = plan(&config_of(name), 32 << 10, None);
        assert_eq!(plan.part_bytes(Part::Weights), 2 * parameters, "{name}");
        assert_eq!(plan.part_bytes(Part::KvCache), 2 * cache_per_token * ((32 << 10) + 16), "{name}");
        let listed: u64 = plan.allocations.iter().map(|(_, _, bytes)| bytes).sum();
        assert_eq!(listed, plan.total_bytes());
        assert!(plan.part_bytes(Part::Activations) > 0 && plan.part_bytes(Part::Workspaces) > 0);
        assert!(plan.allocations.is_sorted_by(|a, b| a.2 >= b.2));
        assert_eq!((plan.fits(), plan.slice), (None, 4096));
    }
}

#[test]
fn less_memory_takes_smaller_slices_down_to_the_least() {
    let dir = small();
    let of = |memory| plan(dir.path(), 4096, Some(memory));
    let whole = plan(dir.path(), 4096, None);
    assert_eq!(whole.slice, 4096);
    assert_eq!(of(whole.total_bytes()), Plan { memory_bytes: Some(whole.total_bytes()), ..whole.clone() });

    let halved = of(whole.total_bytes() - 1);
    assert_eq!((halved.slice, halved.fits()), (2048, Some(true)));
    assert!(halved.total_bytes() < whole.total_bytes());
    assert!(halved.launches_per_layer > whole.launches_per_layer);
    assert_eq!(halved.launches_per_token, whole.launches_per_token);

    let least = of(whole.least_bytes);
    assert_eq!((least.slice, least.total_bytes(), least.fits()), (128, whole.least_bytes, Some(true)));
    assert_eq!(least.least_bytes, whole.least_bytes);
    let too_little = of(whole.least_bytes - 1);
    assert_eq!(too_little.fits(), Some(false));
}

#[test]
fn a_prompt_shorter_than_a_slice_is_one() {
    let dir = small();
    let plan = plan(dir.path(), 100, None);
    assert_eq!((plan.slice, plan.least_bytes), (100, plan.total_bytes()));
}

#[test]
fn launches_add_up() {
    let dir = small();
    let mut config = Config::from_file(&dir.path().join("config.json")).unwrap();
    let mut of = |layers| {
        config.num_hidden_layers = layers;
        model::plan(&config, &options(1000, None)).unwrap()
    };
    let [four, five] = [of(4), of(5)];
    assert_eq!(five.launches_per_prefill - four.launches_per_prefill, four.launches_per_layer);
    assert_eq!(five.launches_per_layer, four.launches_per_layer);
    let token_per_layer = five.launches_per_token - four.launches_per_token;
    assert!((8..30).contains(&token_per_layer), "{token_per_layer}");
    // The last step has a place in the cache as well.
    let full = PlanOptions { max_new_tokens: 0, ..options(1000, None) };
    assert_eq!(model::plan(&config, &full).unwrap().launches_per_token, five.launches_per_token);
}

/// The books of the emulator, which does the work, beside those of the plan.
#[test]
fn a_run_takes_what_the_plan_says() {
    let dir = small();
    let device = Device::Emulated(Arch::Sm80);
    let context = device.context().unwrap().unwrap();
    let before = context.memory().unwrap().free;
    let format = LoadFormat::Dummy { seed: 1 };
    let load = LoadOptions { device, format, dtype: Some(DType::Bf16), ..Default::default() };
    let model = model::load_on(&context, dir.path(), &load, &mut |_| ()).unwrap();
    let weights = before - context.memory().unwrap().free;
    let mut session = model.session(100 + 16).unwrap();
    let mut watch = Lowest { context: &context, free: u64::MAX };
    session.forward(&common::random_tokens(100, 1), &ForwardOptions::default(), &mut watch).unwrap();
    let taken = before - watch.free;

    let config = Config::from_file(&dir.path().join("config.json")).unwrap();
    let device = context.info().clone();
    let plan = model::plan(&config, &PlanOptions { device, ..options(100, None) }).unwrap();
    assert_eq!(plan.part_bytes(Part::Weights), weights);
    assert_eq!(plan.total_bytes(), taken, "{:?}", plan.allocations);
}

struct Lowest<'a> {
    context: &'a lacuna::gpu::Context,
    free: u64,
}

impl model::Observer for Lowest<'_> {
    fn layer(&mut self, _: usize, _: &model::LayerReport) {
        self.free = self.free.min(self.context.memory().unwrap().free);
    }
}

#[test]
fn what_a_gpu_does_not_take_is_refused() {
    let error = |name: &str, change: &dyn Fn(&mut PlanOptions)| {
        let config = Config::from_file(&config_of(name).join("config.json")).unwrap();
        let mut options = options(1024, None);
        change(&mut options);
        model::plan(&config, &options).unwrap_err().to_string()
    };
    assert!(error("llama_1b", &|o| o.dtype = DType::F32).contains("bf16 or f16 on a GPU"));
    assert!(error("llama_1b", &|o| o.tokens = 1 << 18).contains("max_position_embeddings is 131072"));
    assert!(error("llama_1b", &|o| o.tokens = 0).contains("at least 1 token"));
}

fn run(name: &str, more: &[&str]) -> Run {
    let dir = config_of(name);
    lacuna(["plan", "-m", path(&dir)].iter().chain(more).copied())
}

#[test]
fn the_page_says_whether_it_fits_and_what_would_help() {
    let page = run("llama_8b", &["--length", "128k", "--memory", "80G"]).ok();
    for part in
        ["weights      15.0 GiB", "KV cache     16.0 GiB", "131,072 tokens and up to 0 more, dense, in bf16"]
    {
        assert!(page.contains(part), "{page}");
    }
    assert!(page.contains("Fits in 80.0 GiB, with 4") && page.contains(" per decoded token"), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80 && line.trim_end() == line), "{page}");

    let tight = run("llama_8b", &["--length", "128k", "--memory", "24GiB", "-a", "flexprefill"]);
    let page = tight.exits(1).stdout();
    assert_eq!(tight.stderr(), "");
    assert!(page.contains("Does not fit: it takes at least 34"), "{page}");
    let advice = page.split("A prompt of ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let longest: usize = advice.replace(',', "").parse().unwrap();
    let fits = |tokens: usize| {
        let length = tokens.to_string();
        let run = run("llama_8b", &["--length", &length, "--memory", "24G", "-a", "flexprefill"]);
        run.output.status.success()
    };
    assert!(fits(longest) && !fits(longest + 1024), "{longest}");

    let hopeless = run("llama_8b", &["--length", "1k", "--memory", "12G"]).exits(1).stdout();
    assert!(hopeless.contains("The weights alone are too large"), "{hopeless}");
}

#[test]
fn json_has_every_number() {
    let json = run("llama_1b", &["--length", "64k", "-n", "100", "--memory", "16G", "--json"]).json();
    assert_eq!((&json["prompt_tokens"], &json["max_new_tokens"]), (&json!(65536), &json!(100)));
    assert_eq!((&json["dtype"], &json["fits"]), (&json!("bf16"), &json!(true)));
    assert_eq!(json["memory_bytes"], json!(16u64 << 30));
    let parts = json["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, Part::ALL.map(Part::name));
    let sum = |list: &serde_json::Value| -> u64 {
        list.as_array().unwrap().iter().map(|entry| entry["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(json["total_bytes"], sum(&json["parts"]));
    assert!(parts.iter().all(|part| part["bytes"] == sum(&part["allocations"])));
    for key in ["slice_tokens", "launches_per_layer", "launches_per_prefill", "launches_per_token"] {
        assert!(json[key].as_u64().unwrap() > 0, "{key}");
    }
    // A tight fit takes smaller slices.
    let less = (json["total_bytes"].as_u64().unwrap() - 1).to_string();
    let tight = run("llama_1b", &["--length", "64k", "-n", "100", "--memory", &less, "--json"]).json();
    assert_eq!(tight["slice_tokens"], 2048);
    let f16 = run("llama_1b", &["--length", "64k", "--dtype", "f16", "--json", "--memory", "1G"]);
    let json: serde_json::Value = serde_json::from_str(&f16.exits(1).stdout()).unwrap();
    assert_eq!((&json["dtype"], &json["fits"]), (&json!("f16"), &json!(false)));
}

#[test]
fn wrong_usage_says_what_is_right() {
    run("llama_1b", &[]).fails(2, &["--length <N>"]);
    run("llama_1b", &["--length", "0"]).fails(2, &["must be at least 1"]);
    run("llama_1b", &["--length", "1k", "--memory", "lots"]).fails(2, &["such as 80G or 512M"]);
    run("llama_1b", &["--length", "1k", "--device", "cpu"]).fails(2, &["plans are for GPUs"]);
    run("llama_1b", &["--length", "1k", "--dtype", "f32"]).fails(1, &["bf16 or f16 on a GPU"]);
    run("llama_1b", &["--length", "1m"]).fails(1, &["max_position_embeddings is 131072"]);
    run("llama_1b", &["--length", "1k", "-a", "flexprefill,block=48"]).fails(2, &["block must be"]);
    run("no_such", &["--length", "1k"]).fails(1, &["config.json"]);
}

//! `lacuna model`: the needle model, and what a model directory holds.

use std::path::PathBuf;

use lacuna::DType;
use lacuna_runner::attn::format_length;
use lacuna_runner::model::{Checkpoint, Config, RopeScaling};
use lacuna_runner::needle::{self, Basis, Existing, NeedleOptions};
use lacuna_runner::report::{format_bytes, format_count};
use serde::Serialize;

use super::args;
use super::failure::{Failure, Outcome};
use super::terminal;

/// Make the needle model, or look at a model
#[derive(clap::Subcommand)]
#[command(subcommand_required = true)]
pub enum ModelCommand {
    Needle(NeedleArgs),
    Info(InfoArgs),
}

/// Make a small model that finds facts hidden in long texts, no download needed
///
/// Its weights are built by hand, 3.8 million of them. It answers "Record: the secret number kept for KEY is:" with
/// the value the text before gives, exactly when attention reads the tokens that hold it: so it shows whether a
/// pattern keeps what matters. It is no language model, and its score says nothing about the quality of one.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    lacuna model needle --out needle\n  \
    lacuna generate -m needle -p 'Record: the secret number kept for tea is: 42. Record: the secret number kept for tea is:'")]
pub struct NeedleArgs {
    /// The directory to make; one that holds something is refused
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the stored weights: bf16, f16, f32; bf16 unless given
    #[arg(long, value_name = "TYPE", value_parser = args::stored_dtype)]
    dtype: Option<DType>,
    /// The longest context, up to 1m; 128k unless given
    #[arg(long, value_name = "N", value_parser = args::positive_length)]
    max_len: Option<usize>,
    /// Layers, 2 or more; those beyond 2 only cost time
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Coordinates of the weights: dense (randomly rotated) or plain (to be read)
    #[arg(long, value_name = "BASIS", value_enum, hide_possible_values = true, default_value = "dense")]
    basis: BasisArg,
    /// Seed of the rotation
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum BasisArg {
    Dense,
    Plain,
}

/// Say what a model directory holds
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lacuna model info -m needle")]
pub struct InfoArgs {
    /// A model directory in Hugging Face format (Llama)
    #[arg(short, long, value_name = "DIR")]
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    architecture: &'static str,
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope: String,
    dtype: Option<String>,
    weight_bytes: u64,
    kv_cache_bytes_per_token: usize,
}

pub fn run(command: ModelCommand) -> Outcome {
    match command {
        ModelCommand::Needle(args) => make_needle(args),
        ModelCommand::Info(args) => info(args),
    }
}

fn make_needle(args: NeedleArgs) -> Outcome {
    let default = NeedleOptions::default();
    let options = NeedleOptions {
        dtype: args.dtype.unwrap_or(default.dtype),
        basis: match args.basis {
            BasisArg::Dense => Basis::Dense,
            BasisArg::Plain => Basis::Plain,
        },
        seed: args.seed,
        max_len: args.max_len.unwrap_or(default.max_len),
        num_layers: args.layers.unwrap_or(default.num_layers),
    };
    needle::write(&args.out, &options, Existing::Refuse).map_err(Failure::from_arguments)?;
    terminal::print(&format!(
        "{}: the needle model, {} layers in {}, for up to {} tokens\n",
        args.out.display(),
        options.num_layers,
        options.dtype,
        format_count(options.max_len),
    ))
}

fn info(args: InfoArgs) -> Outcome {
    let config = Config::from_file(&args.model.join("config.json"))?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let dtype = checkpoint.dtype();
    let info = Info {
        architecture: "LlamaForCausalLM",
        num_hidden_layers: config.num_hidden_layers,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.max_position_embeddings,
        rope: match config.rope.scaling {
            RopeScaling::Default => format!("theta {:e}", config.rope.theta),
            RopeScaling::Linear { factor } => format!("theta {:e}, linear by {factor}", config.rope.theta),
            RopeScaling::Llama3 { factor, .. } => {
                format!("theta {:e}, llama3 by {factor}", config.rope.theta)
            }
        },
        dtype: dtype.map(|dtype| dtype.to_string()),
        weight_bytes: checkpoint.size_bytes(),
        kv_cache_bytes_per_token: 2
            * config.num_hidden_layers
            * config.num_key_value_heads
            * config.head_dim
            * dtype.map_or(0, DType::size_bytes),
    };
    if args.json {
        return terminal::print_json(&info);
    }
    terminal::print(&format!(
        "\
architecture   {}
layers         {}
hidden, MLP    {}, {}
heads          {} query, {} key and value, of {}
vocabulary     {}
positions      {} ({})
rotary         {}
weights        {} in {}
KV cache       {} per token
",
        info.architecture,
        info.num_hidden_layers,
        info.hidden_size,
        info.intermediate_size,
        info.num_attention_heads,
        info.num_key_value_heads,
        info.head_dim,
        format_count(info.vocab_size),
        format_count(info.max_position_embeddings),
        format_length(info.max_position_embeddings),
        info.rope,
        format_bytes(info.weight_bytes),
        info.dtype.as_deref().unwrap_or("no known type"),
        format_bytes(info.kv_cache_bytes_per_token as u64),
    ))
}

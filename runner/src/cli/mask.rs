//! `lacuna mask`: a picture of what a pattern keeps.

use std::path::{Path, PathBuf};

use lacuna::{AttentionShape, Selection, Seqlens};
use lacuna_runner::attn::Attn;
use lacuna_runner::context::Method;
use lacuna_runner::generate::SamplingOptions;
use lacuna_runner::model::{ForwardOptions, LayerReport, LogitRows, Observer};
use lacuna_runner::report::{
    MAX_SIDE, MaskPicture, format_count, format_density, format_duration, write_file,
};

use super::args::{self, ModelArgs};
use super::failure::{Failure, Outcome};
use super::progress::{Progress, Task};
use super::prompt::PromptArgs;
use super::terminal;

/// Draw which blocks a pattern keeps
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna mask -m DIR -f book.txt -a flexprefill --layer 1 --head 0 -o mask.png\n  \
    lacuna mask -m DIR -f book.txt -a vertical-slash        drawn in text\n\n\
    Queries go down, keys to the right. Dark (or a full block): all of a cell was\n\
    read; paler: part of it; grey (or a dot): nothing; white: not visible.")]
pub struct MaskArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The pattern, as NAME[,KEY=VALUE...]; 'help' lists all
    #[arg(short, long, value_name = "PATTERN", value_parser = args::attn)]
    attn: Attn,
    /// The layer, from 0 on
    #[arg(long, value_name = "L", default_value_t = 0)]
    layer: usize,
    /// The query head, from 0 on
    #[arg(long, value_name = "H", default_value_t = 0)]
    head: usize,
    /// The PNG file to write; without it, or with -, text is drawn
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Cells along a side of a drawing in text, two characters wide each.
const TEXT_SIDE: usize = 40;

pub fn run(args: MaskArgs, progress: &Progress) -> Outcome {
    let prompt = args.prompt.prompt()?;
    let config = &args.model.config()?;
    let tokenizer = args.model.tokenizer(config, &prompt)?;
    for (what, got, limit) in
        [("--layer", args.layer, config.num_hidden_layers), ("--head", args.head, config.num_attention_heads)]
    {
        if got >= limit {
            return Err(Failure::Usage(format!("{what} must be below {limit} for this model, got {got}")));
        }
    }
    args.attn.check(config)?;
    if *args.attn.method() != Method::Full {
        let method = args.attn.method().name();
        return Err(Failure::Usage(format!("masks are those of patterns: --attn must be one, got {method}")));
    }
    let prompt = prompt.tokens(&tokenizer, config.vocab_size, SamplingOptions::default().seed)?.tokens;
    let attns = std::slice::from_ref(&args.attn);
    let model = args.model.load(config, [prompt.len(), 0], attns, progress)?;
    let file = args.out.filter(|path| path != Path::new("-"));
    let shape = AttentionShape::new(
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        Seqlens::single(prompt.len(), prompt.len())?,
    )?;
    let mut draw = Draw {
        task: progress.task(format!("prefill, {}", args.attn.name()), config.num_hidden_layers as u64),
        layer: args.layer,
        head: args.head,
        max_side: if file.is_some() { MAX_SIDE } else { TEXT_SIDE },
        shape,
        picture: None,
    };
    let options = ForwardOptions {
        pattern: args.attn.pattern().clone(),
        thresholds: args.attn.thresholds().cloned(),
        logits: LogitRows::These(&[]),
        ..Default::default()
    };
    let (_, report) = model.session(prompt.len())?.forward(&prompt, &options, &mut draw)?;
    let picture = match draw.picture {
        Some(picture) => picture?,
        None => return Err(Failure::Other(format!("layer {} was not run", args.layer))),
    };
    let layer = &report.layers[args.layer];
    let [rows, keys] = picture.cell();
    let mut caption = format!(
        "{}\n\
         layer {}, head {}, {} tokens: kept {} of this head, {} of the layer\n\
         search {}, attention {}\n",
        args.attn,
        args.layer,
        args.head,
        format_count(prompt.len()),
        format_density(picture.density()),
        format_density(layer.density),
        format_duration(layer.search),
        format_duration(layer.attention),
    );
    match file {
        Some(file) => {
            write_file(&file, &picture.to_png())?;
            caption += &format!(
                "{}: a cell is {rows} queries by {keys} keys, a tick {} tokens\n",
                file.display(),
                format_count(picture.tick())
            );
        }
        None => caption += &format!("{}a cell is {rows} queries by {keys} keys\n", picture.to_text()),
    }
    terminal::print(&caption)
}

/// Draws one layer as it passes.
struct Draw {
    task: Task,
    layer: usize,
    head: usize,
    max_side: usize,
    shape: AttentionShape,
    picture: Option<lacuna_runner::Result<MaskPicture>>,
}

impl Observer for Draw {
    fn selection(&mut self, layer: usize, selection: Selection<'_>) {
        if layer == self.layer {
            self.picture = Some(MaskPicture::new(selection, &self.shape, self.head, self.max_side));
        }
    }

    fn layer(&mut self, layer: usize, report: &LayerReport) {
        self.task.layer(layer, report);
    }
}

//! `lacuna generate`: a prompt goes in, its continuation comes out.

mod answer;
mod page;

use std::ops::ControlFlow;

use lacuna_runner::Error;
use lacuna_runner::attn::Attn;
use lacuna_runner::comm::{Alone, Communicator};
use lacuna_runner::context::{self, Method, Prefilled};
use lacuna_runner::generate::{GenerateOptions, generate};
use lacuna_runner::model::{Model, Tokenizer};

use super::args::{self, ModelArgs};
use super::cost::Cost;
use super::failure::{Failure, Outcome};
use super::first_rank::on_first_rank;
use super::generation_args::{SamplingArgs, StoppingArgs};
use super::progress::{Passes, Progress, ProgressMode};
use super::prompt::{PromptArgs, PromptTokens};
use super::ranks::RankArgs;
use super::terminal;
use answer::{Answer, Answers};

/// Continue a prompt, by one kind of attention or several
///
/// Context methods run a long text in parts and keep some of it for the query after it. Context and query are tokenised apart, so
/// that every method, and dense attention, sees the same tokens.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna generate -m DIR -p 'The capital of France is'\n  \
    lacuna generate -m DIR -f book.txt -a flexprefill,gamma=0.95 -n 200\n  \
    lacuna generate -m DIR --context-file book.txt --query 'Where is Mary?' \\\n      \
    -a dense -a flexprefill -a xattention,threshold=0.9\n  \
    lacuna generate -m DIR --context-file book.txt --query 'Where is Mary?' \\\n      \
    -a dense -a star,block=4k -a star,block=4k+flexprefill --np 4\n  \
    lacuna generate -m DIR --load-format dummy --prompt-tokens 8k \\\n      \
    --query-tokens 16 -a seq-topk --ignore-eos\n  \
    lacuna generate -a help        context methods, patterns and their keys")]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The last N tokens of the prompt are the query, whatever they say
    #[arg(
        long,
        value_name = "N",
        value_parser = args::positive_length,
        conflicts_with = "query",
        help_heading = "Prompt"
    )]
    query_tokens: Option<usize>,
    /// A context method, a pattern, or METHOD+PATTERN, each as NAME[,KEY=VALUE...]; several are compared in a table; 'help' lists
    /// all
    #[arg(short, long, value_name = "ATTN", default_value = "dense", value_parser = args::attn)]
    attn: Vec<Attn>,
    #[command(flatten)]
    ranks: RankArgs,
    /// The most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = args::positive_length)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stopping: StoppingArgs,
    /// Print the answer when it is complete, not as it comes
    #[arg(long)]
    no_stream: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: GenerateArgs, progress: &Progress) -> Outcome {
    let sampling = args.sampling.options()?;
    let prompt = args.prompt.prompt()?;
    let config = args.model.config()?;
    let tokenizer = args.model.tokenizer(&config, &prompt)?;
    args.attn.iter().try_for_each(|attn| attn.check(&config))?;
    let prompt =
        prompt.tokens(&tokenizer, config.vocab_size, sampling.seed)?.with_query(args.query_tokens)?;
    if let (None, Some(attn)) = (prompt.query_start, args.attn.iter().find(|a| *a.method() != Method::Full)) {
        return Err(Failure::Usage(format!(
            "{} keeps parts of a context for a query: give --context-file FILE and --query TEXT, or --query-tokens N",
            attn.method().name()
        )));
    }
    let (tokens, limit) = (prompt.tokens.len(), config.max_position_embeddings);
    if tokens > limit {
        let (what, limit_name) = ("the prompt", "max_position_embeddings");
        return Err(Error::TooLong { what, tokens, limit_name, limit }.into());
    }
    let model = args.model.load(&config, [tokens, args.max_new_tokens], &args.attn, progress)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        eos_token_ids: args.stopping.token_ids(model.config(), model.generation_config()),
        stop: args.stopping.texts(),
        sampling,
        ..Default::default()
    };
    let single = args.attn.len() == 1 && !args.json;
    let answers = args.ranks.run(|comm| {
        let quiet = Progress::new(ProgressMode::None);
        let run = Run {
            model: &*model,
            comm,
            tokenizer: &tokenizer,
            prompt: &prompt,
            options: &options,
            progress: if comm.rank() == 0 { progress } else { &quiet },
        };
        let mut answers = Vec::with_capacity(args.attn.len());
        for attn in &args.attn {
            answers.extend(run.answer(attn, single && !args.no_stream && comm.rank() == 0)?);
        }
        Ok((comm.world_size(), answers))
    })?;
    let Some((world_size, answers)) = answers else { return Ok(()) };
    if let ([answer], true) = (&answers[..], single) {
        terminal::print(if args.no_stream { &answer.text } else { "" })?;
        terminal::print(if answer.text.ends_with('\n') { "" } else { "\n" })?;
        terminal::say(&answer.summary(&prompt));
        return Ok(());
    }
    if args.json {
        let device = args.model.compute.options().device;
        return terminal::print_json(&Answers::new(&*model, device, &prompt, world_size, answers));
    }
    terminal::print(&page::comparison(&answers).render(terminal::colour()))
}

/// One rank's part in answering a prompt.
struct Run<'a> {
    model: &'a dyn Model,
    comm: &'a dyn Communicator,
    tokenizer: &'a Tokenizer,
    prompt: &'a PromptTokens,
    options: &'a GenerateOptions,
    progress: &'a Progress,
}

impl Run<'_> {
    /// Answers by one kind of attention, and prints the text as it comes, or not at all. `None` on ranks that were not needed.
    fn answer(&self, attn: &Attn, stream: bool) -> Outcome<Option<Answer>> {
        match attn.method() {
            // Nothing of it is shared.
            Method::Full => on_first_rank(self.comm, |alive| self.generate(&Alone, attn, stream, alive)),
            _ => self.generate(self.comm, attn, stream, &|| ()).map(Some),
        }
    }

    fn generate(
        &self,
        comm: &dyn Communicator,
        attn: &Attn,
        stream: bool,
        alive: &dyn Fn(),
    ) -> Outcome<Answer> {
        let Self { model, prompt, .. } = *self;
        let (context, query) = prompt.parts();
        let room = model.config().max_position_embeddings - prompt.tokens.len();
        let options = attn.options(self.options.max_new_tokens.min(room));
        let label = format!("prefill, {}", attn.name());
        let mut passes = Passes::new(self.progress, label, model.config().num_hidden_layers, alive);
        let Prefilled { mut session, tokens, forward, report } =
            context::prefill(model, comm, context, query, &options, &mut passes)?;
        let options = GenerateOptions {
            pattern: forward.pattern,
            thresholds: forward.thresholds,
            seen: prompt.tokens[..prompt.tokens.len() - tokens.len()].to_vec(),
            ..self.options.clone()
        };
        let mut printed = Ok(());
        let generation =
            generate(&mut *session, self.tokenizer, &tokens, &options, &mut passes, &mut |text| {
                alive();
                if stream && printed.is_ok() {
                    printed = terminal::print(text);
                }
                // Other ranks wait for the tokens to come, whether they can be printed or not.
                match printed.is_err() && comm.world_size() == 1 {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
        let lens = [prompt.tokens.len(), prompt.context_len()];
        let cost = Cost::new(model, attn.method(), lens, &report, &generation.prefill);
        let ranks = cost.of_ranks(comm)?;
        printed.map(|()| Answer::new(attn, generation, cost, ranks))
    }
}

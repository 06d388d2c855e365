//! What a session offers to context methods: passes with more to say than a prefill, and what is done to its rows between them.
//! Every case runs on the CPU in two types and on the emulated GPU.

mod common;
#[path = "kv_session/hidden_states.rs"]
mod hidden_states;
#[path = "kv_session/reads.rs"]
mod reads;
#[path = "kv_session/refusals.rs"]
mod refusals;
#[path = "kv_session/ring.rs"]
mod ring;
#[path = "kv_session/rows.rs"]
mod rows;
#[path = "kv_session/shards.rs"]
mod shards;

use std::sync::LazyLock;

use common::*;
use half::bf16;
use lacuna::{Arch, DType, Device};
use lacuna_runner::model::{
    self, ForwardOptions, KvSession, LoadOptions, LogitRows, Model, PassOptions, PassOutput, Reads,
};
use serde_json::{Value, json};

/// A model of random weights, and how many tokens a case may run on it.
struct Setup {
    model: Box<dyn Model>,
    /// As they are loaded, rounded to the compute type.
    tensors: Tensors,
    /// Tokens of a context, and of a pass after it.
    past: usize,
    len: usize,
    /// What results may differ by that are the same but for rounding, of their largest magnitude.
    tolerance: f32,
    _dir: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Engine {
    CpuF32,
    CpuBf16,
    Emulated,
}

impl Setup {
    fn new(engine: Engine) -> Self {
        Self::with_layers(engine, 2)
    }

    /// The first so many layers of the model.
    fn with_layers(engine: Engine, layers: usize) -> Self {
        Self::with_weights(engine, layers, |_| ())
    }

    /// As [`Setup::with_layers`], its weights changed.
    fn with_weights(engine: Engine, layers: usize, change: impl FnOnce(&mut Tensors)) -> Self {
        let (dtype, device) = match engine {
            Engine::CpuF32 => (DType::F32, Device::Cpu),
            Engine::CpuBf16 => (DType::Bf16, Device::Cpu),
            Engine::Emulated => (DType::Bf16, Device::Emulated(Arch::Sm80)),
        };
        let mut config = config();
        config["num_hidden_layers"] = json!(2);
        if engine == Engine::Emulated {
            // What the kernels take.
            config["hidden_size"] = json!(64);
            config["head_dim"] = json!(64);
        }
        let mut tensors = tensors(&config, 77);
        if dtype == DType::Bf16 {
            let weights = tensors.values_mut().flat_map(|(_, data)| data);
            weights.for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        config["num_hidden_layers"] = json!(layers);
        let of_layer = |name: &str| name.split('.').nth(2).and_then(|layer| layer.parse::<usize>().ok());
        tensors.retain(|name, _| of_layer(name).is_none_or(|layer| layer < layers));
        change(&mut tensors);
        let (dir, model) = load(&config, &tensors, dtype, device);
        let (past, len) = if engine == Engine::Emulated { (70, 9) } else { (150, 40) };
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.06 };
        Self { model, tensors, past, len, tolerance, _dir: dir }
    }

    /// Tokens of the context, and of the pass.
    fn tokens(&self) -> (Vec<u32>, Vec<u32>) {
        (random_tokens(self.past, 21), random_tokens(self.len, 22))
    }

    /// An empty session with room for more than the cases need.
    fn session(&self) -> Box<dyn KvSession + '_> {
        self.model.session(2 * (self.past + self.len)).unwrap()
    }

    /// A session that holds the context.
    fn filled(&self) -> Box<dyn KvSession + '_> {
        let mut session = self.session();
        forward(&mut *session, &self.tokens().0);
        session
    }

    /// A weight, by its name without `.weight`.
    fn weight(&self, name: &str) -> &[f32] {
        &self.tensors[&format!("{name}.weight")].1
    }

    fn assert_close(&self, got: &[f32], want: &[f32], what: &str) {
        let error = relative_error(got, want);
        assert!(error <= self.tolerance, "{what}: relative error {error}");
    }
}

fn load(
    config: &Value,
    tensors: &Tensors,
    dtype: DType,
    device: Device,
) -> (tempfile::TempDir, Box<dyn Model>) {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), config, tensors, dtype);
    let options = LoadOptions { dtype: Some(dtype), device, ..Default::default() };
    let model = model::load(dir.path(), &options, &mut |_| ()).unwrap();
    (dir, model)
}

/// A plain pass; gives the last row's logits.
fn forward(session: &mut dyn KvSession, tokens: &[u32]) -> Vec<f32> {
    session.forward(tokens, &ForwardOptions::default(), &mut ()).unwrap().0
}

/// A pass that asks for the logits of all rows.
fn pass<'a>(
    session: &mut dyn KvSession,
    tokens: &[u32],
    positions: &'a [u32],
    reads: Reads<'a>,
) -> PassOutput {
    static ROWS: LazyLock<Vec<usize>> = LazyLock::new(|| (0..256).collect());
    let forward = ForwardOptions {
        position_ids: Some(positions),
        logits: LogitRows::These(&ROWS[..tokens.len()]),
        ..Default::default()
    };
    session.pass(tokens, PassOptions { forward, reads, ..Default::default() }, &mut ()).unwrap()
}

/// The positions from `start` on.
fn positions(start: usize, len: usize) -> Vec<u32> {
    (start as u32..).take(len).collect()
}

/// All that can be seen of a session's rows.
fn contents(session: &mut dyn KvSession) -> (usize, model::KvRows, Vec<u32>) {
    let len = session.len();
    (len, session.read_kv(0..len).unwrap(), session.position_ids().to_vec())
}

macro_rules! on_every_engine {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod cpu_f32 {
            $(#[test]
            fn $case() {
                super::$module::$case(&super::Setup::new(super::Engine::CpuF32));
            })*
        }
        mod cpu_bf16 {
            $(#[test]
            fn $case() {
                super::$module::$case(&super::Setup::new(super::Engine::CpuBf16));
            })*
        }
        mod emulated_bf16 {
            $(#[test]
            fn $case() {
                super::$module::$case(&super::Setup::new(super::Engine::Emulated));
            })*
        }
    };
}

on_every_engine!(
    reads::a_pass_from_a_row_on_equals_one_after_those_rows_alone,
    reads::a_pattern_reads_from_a_row_on_too,
    reads::column_mass_is_what_columns_receive_in_all_layers,
    reads::a_pass_without_logits_caches_the_same_rows,
    hidden_states::they_are_counted_back_from_the_last_layer,
    rows::kept_rows_are_those_appended_one_by_one,
    rows::a_session_goes_on_after_what_is_kept_as_if_nothing_else_had_been_there,
    rows::duplicates_are_copies,
    rows::rows_move_from_session_to_session,
    rows::keys_are_those_of_the_rows,
    rows::the_next_token_stands_where_it_is_told,
    rows::a_step_that_was_begun_is_forgotten,
    shards::any_cut_reads_what_an_ordinary_pass_reads,
    shards::decoding_over_shards_is_decoding,
    shards::two_sessions_share_a_context,
    shards::shards_are_read_causally_where_it_is_asked_for,
    shards::what_the_mixer_does_not_choose_is_not_read,
    shards::the_mixer_sees_the_layers_inputs,
    shards::what_the_mixer_cannot_do_is_handed_on,
    ring::a_ring_of_one_is_an_ordinary_pass,
    ring::ranks_of_a_ring_have_the_rows_of_one_pass,
    refusals::a_refusal_is_a_sentence_and_changes_nothing,
);

#[test]
fn the_first_layers_hidden_state_is_that_of_a_model_of_one_layer() {
    for engine in [Engine::CpuF32, Engine::CpuBf16, Engine::Emulated] {
        hidden_states::of_one_layer(&Setup::new(engine), &Setup::with_layers(engine, 1));
    }
}

#[test]
fn a_window_of_one_layer_is_a_pass_over_the_windows_tokens() {
    for engine in [Engine::CpuF32, Engine::CpuBf16, Engine::Emulated] {
        reads::of_one_layer(&Setup::with_layers(engine, 1));
    }
}

#[test]
fn what_is_not_finite_is_named_by_its_token() {
    for engine in [Engine::CpuF32, Engine::CpuBf16, Engine::Emulated] {
        for layers in [1, 2] {
            let setup = Setup::with_weights(engine, layers, |tensors| {
                let name = format!("model.layers.{}.mlp.down_proj.weight", layers - 1);
                tensors.get_mut(&name).unwrap().1.iter_mut().for_each(|x| *x = 3e38 * x.signum());
            });
            hidden_states::not_finite(&setup);
        }
    }
}

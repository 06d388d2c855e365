//! A model that the ranks of a process share.

use std::sync::OnceLock;

use lacuna_runner::comm::Communicator;
use lacuna_runner::model::Model;

use super::failure::{Failure, Outcome};

/// Loaded by the first rank of a process that needs it.
#[derive(Default)]
pub struct SharedModel {
    model: OnceLock<lacuna_runner::Result<Box<dyn Model>, String>>,
}

impl SharedModel {
    /// The model. Rank 0 calls it once it has checked all that can be checked without one, and the other ranks at the beginning:
    /// they wait for that.
    pub fn get(
        &self,
        comm: &dyn Communicator,
        load: impl FnOnce() -> lacuna_runner::Result<Box<dyn Model>>,
    ) -> Outcome<&dyn Model> {
        comm.broadcast(0, &[])?;
        match self.model.get_or_init(|| load().map_err(|e| e.to_string())) {
            Ok(model) => Ok(&**model),
            Err(reason) => Err(Failure::Other(reason.clone())),
        }
    }
}

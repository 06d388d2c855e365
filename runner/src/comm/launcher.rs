//! Which rank a launcher started this process as.

use std::env;

use crate::{Error, Result};

/// A process that `mpirun`, `srun` or their like started beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The launcher, for messages: `mpirun`, `srun`, or the protocol that several of them speak.
    pub launcher: &'static str,
    /// This process, below [`Launched::world_size`].
    pub rank: usize,
    /// Processes that were started, at least 2.
    pub world_size: usize,
    /// This process among those on its host, where the launcher says so.
    pub local_rank: Option<usize>,
}

/// The variables of each launcher, in the order in which they are looked for: an `mpirun` inside a Slurm job sets its own beside
/// Slurm's. A Slurm job's script has a rank and a number of tasks too, but no step: it is one process, whatever the job's size.
const LAUNCHERS: [(&str, &str, &str, &str); 3] = [
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
];

impl Launched {
    /// What the environment says of this process; `None` where nothing started it, or it alone.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where a launcher's variable holds no number, or a rank that its world does not have.
    pub fn detect() -> Result<Option<Self>> {
        Self::from_variables(|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
    }

    /// [`Launched::detect`] with the variables that `get` gives.
    ///
    /// # Errors
    /// As [`Launched::detect`].
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &'static str| match get(name) {
            Some(text) => text.trim().parse().map(Some).map_err(|_| Error::invalid(name, "a number", text)),
            None => Ok(None),
        };
        for (launcher, rank_name, size, local_rank) in LAUNCHERS {
            let (Some(rank), Some(world_size)) = (number(rank_name)?, number(size)?) else { continue };
            if rank >= world_size {
                return Err(Error::invalid(rank_name, format_args!("below {size} ({world_size})"), rank));
            }
            let local_rank = number(local_rank)?;
            return Ok((world_size > 1).then_some(Self { launcher, rank, world_size, local_rank }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Launched::from_variables(get)
    }

    const MPIRUN: [(&str, &str); 3] =
        [("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_RANK", "0")];
    const SRUN: [(&str, &str); 3] =
        [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_LOCALID", "1")];

    #[test]
    fn each_launcher_is_known_by_its_variables() {
        let found = |launcher, rank, world_size, local_rank| {
            Some(Launched { launcher, rank, world_size, local_rank: Some(local_rank) })
        };
        assert_eq!(of(&MPIRUN).unwrap(), found("mpirun", 2, 4, 0));
        assert_eq!(of(&SRUN).unwrap(), found("srun", 1, 2, 1));
        let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "3")];
        assert_eq!(of(&pmi).unwrap(), Some(Launched { local_rank: None, ..found("PMI", 0, 3, 0).unwrap() }));
    }

    #[test]
    fn mpirun_inside_a_slurm_job_comes_first() {
        assert_eq!(of(&[SRUN, MPIRUN].concat()).unwrap().unwrap().launcher, "mpirun");
    }

    #[test]
    fn one_process_is_no_group() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]).unwrap(), None);
        // The script of a job of four tasks, and a step of one.
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "0")];
        assert_eq!(of(&script).unwrap(), None);
        assert_eq!(of(&[&script[..], &[("SLURM_STEP_NUM_TASKS", "1")]].concat()).unwrap(), None);
    }

    #[test]
    fn nonsense_is_named() {
        let error = |variables: &[(&str, &str)]| of(variables).unwrap_err().to_string();
        assert_eq!(error(&[("PMI_RANK", "one"), ("PMI_SIZE", "2")]), "PMI_RANK must be a number, got one");
        assert_eq!(
            error(&[("OMPI_COMM_WORLD_RANK", "4"), ("OMPI_COMM_WORLD_SIZE", "4")]),
            "OMPI_COMM_WORLD_RANK must be below OMPI_COMM_WORLD_SIZE (4), got 4"
        );
    }
}

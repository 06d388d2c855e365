//! Ranks: what they do together, and what comes of a rank that fails.

#[path = "common/program.rs"]
mod program;

use std::thread::sleep;
use std::time::{Duration, Instant};

use lacuna_runner::comm::{Alone, Communicator, threads};
use lacuna_runner::{Error, Result};

/// Longer than anything here takes.
const PATIENT: Duration = Duration::from_secs(60);

/// What a rank has to say: of a length of its own, and unlike what others say.
fn message(rank: usize, len: usize) -> Vec<u8> {
    (0..len + 3 * rank * usize::from(len > 0)).map(|i| (i * 31 + rank * 101 + len) as u8).collect()
}

/// Runs everything that ranks do together, and checks what each gets.
fn collectives(comm: &dyn Communicator) -> Result<()> {
    let (rank, size) = (comm.rank(), comm.world_size());
    for len in [0, 1, 1000, 3 << 20] {
        for root in 0..size {
            let own = if rank == root { message(root, len) } else { b"not this".to_vec() };
            assert_eq!(comm.broadcast(root, &own)?, message(root, len), "{len} bytes from {root}");
        }
        let all = comm.all_gather(&message(rank, len))?;
        assert_eq!(all, (0..size).map(|rank| message(rank, len)).collect::<Vec<_>>(), "{len} bytes");
        let mut travelling = message(rank, len);
        for step in 1..=size {
            travelling = comm.rotate(&travelling)?;
            assert_eq!(
                travelling,
                message((rank + size * step - step) % size, len),
                "{len} bytes, step {step}"
            );
        }
        comm.barrier()?;
    }
    Ok(())
}

#[test]
fn all_ranks_get_what_is_theirs() {
    collectives(&Alone).unwrap();
    for size in 1..=5 {
        threads::run(size, PATIENT, collectives).unwrap();
    }
}

#[test]
fn results_come_by_rank() {
    let ranks = threads::run(5, PATIENT, |comm| {
        // The last one is done first.
        sleep(Duration::from_millis(5 * (5 - comm.rank() as u64)));
        assert_eq!(comm.world_size(), 5);
        Ok::<_, Error>(comm.rank())
    });
    assert_eq!(ranks.unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn messages_keep_their_order() {
    threads::run(3, PATIENT, |comm| {
        let others = || (0..3).filter(|&rank| rank != comm.rank());
        // All are sent before the first is received: sending waits for nobody.
        for i in 0..500_u32 {
            for to in others() {
                comm.send(to, &[i.to_le_bytes(), (comm.rank() as u32).to_le_bytes()].concat())?;
            }
        }
        for from in others() {
            for i in 0..500_u32 {
                assert_eq!(comm.recv(from)?, [i.to_le_bytes(), (from as u32).to_le_bytes()].concat());
            }
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

#[test]
fn a_barrier_holds_until_the_last_has_come() {
    let late = Duration::from_millis(200);
    let start = Instant::now();
    let waited = threads::run(4, PATIENT, |comm| {
        if comm.rank() == 2 {
            sleep(late);
        }
        comm.barrier()?;
        Ok::<_, Error>(start.elapsed())
    });
    assert!(waited.unwrap().into_iter().all(|waited| waited >= late));
}

/// What each rank of four said, where rank 2 does `work` and the others gather; and what the group says.
fn with_rank_2(
    timeout: Duration,
    work: impl Fn(&dyn Communicator) -> Result<()> + Sync,
) -> (Vec<String>, Error) {
    let said = std::sync::Mutex::new(Vec::new());
    let group = threads::run(4, timeout, |comm| {
        if comm.rank() == 2 {
            return work(comm);
        }
        let result = comm.all_gather(&[7]).map(drop);
        said.lock().unwrap().extend(result.as_ref().err().map(Error::to_string));
        result
    });
    (said.into_inner().unwrap(), group.unwrap_err())
}

#[test]
fn a_rank_that_errs_is_named_and_gives_the_groups_error() {
    let start = Instant::now();
    let (said, group) = with_rank_2(PATIENT, |_| {
        // The others wait by then.
        sleep(Duration::from_millis(50));
        Err(Error::invalid("model", "one that exists", "none"))
    });
    assert_eq!(group.to_string(), "model must be one that exists, got none");
    assert_eq!(said.len(), 3);
    // Whoever waits for rank 2 names it; who waits for one of those may name that one.
    assert!(said.iter().any(|s| s.starts_with("rank 2 has ended")), "{said:?}");
    assert!(said.iter().all(|s| s.starts_with("rank ") && s.contains(" has ended")), "{said:?}");
    assert!(start.elapsed() < PATIENT / 4, "nobody waits for the time limit");
}

#[test]
fn a_rank_that_panics_is_named_with_its_message() {
    let (said, group) = with_rank_2(PATIENT, |comm| {
        assert_eq!(comm.rank(), 99, "this rank breaks on purpose");
        Ok(())
    });
    let Error::Rank { rank: 2, what } = &group else { panic!("{group}") };
    assert!(what.starts_with("panicked: ") && what.contains("this rank breaks on purpose"), "{what}");
    assert!(said.iter().any(|s| s.starts_with("rank 2 has ended")), "{said:?}");
}

#[test]
fn a_rank_that_returns_early_is_named() {
    let (said, group) = with_rank_2(PATIENT, |_| Ok(()));
    assert!(group.to_string().starts_with("rank 2 has ended"), "{group}");
    assert_eq!(said.len(), 3);
    // What it sent before counts.
    let last_words = threads::run(2, PATIENT, |comm| {
        if comm.rank() == 0 {
            comm.send(1, b"so long")?;
            return Ok(Vec::new());
        }
        sleep(Duration::from_millis(20));
        comm.recv(0)
    });
    assert_eq!(last_words.unwrap()[1], b"so long");
}

#[test]
fn a_rank_that_hangs_is_named_with_the_time_limit() {
    let (said, group) = with_rank_2(Duration::from_millis(500), |_| {
        sleep(Duration::from_millis(1500));
        Ok(())
    });
    assert_eq!(group.to_string(), "rank 2 has not answered for 500 ms");
    assert_eq!(said.len(), 3);
}

#[test]
fn ranks_that_wait_for_each_other_do_not_wait_forever() {
    let group = threads::run(2, Duration::from_millis(50), |comm| comm.recv(1 - comm.rank()));
    let Error::Rank { what, .. } = group.unwrap_err() else { panic!("not a rank's") };
    assert!(what.contains("not answered for 50.0 ms") || what.contains("has ended"), "{what}");
}

#[test]
fn of_several_causes_the_lowest_rank_is_told() {
    for _ in 0..20 {
        let group = threads::run(4, PATIENT, |comm| match comm.rank() {
            0 => comm.recv(3).map(drop),
            rank => Err(Error::invalid("rank", "0", rank)),
        });
        assert_eq!(group.unwrap_err().to_string(), "rank must be 0, got 1");
    }
}

#[test]
fn what_is_no_other_rank_is_refused() {
    let refused = |comm: &dyn Communicator, peer: usize| {
        for result in [comm.send(peer, &[]), comm.recv(peer).map(drop)] {
            assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{peer}: {result:?}");
        }
    };
    threads::run(3, PATIENT, |comm| {
        refused(comm, comm.rank());
        refused(comm, 3);
        Ok::<_, Error>(())
    })
    .unwrap();
    refused(&Alone, 0);
    refused(&Alone, 1);
    for size in [0, threads::MAX_WORLD_SIZE + 1] {
        let error = threads::run(size, PATIENT, |_| Ok::<_, Error>(())).unwrap_err();
        assert_eq!(error.to_string(), format!("world_size must be 1 to 1024 ranks, got {size}"));
    }
}

#[cfg(feature = "nccl")]
mod nccl {
    use lacuna::Device;
    use lacuna_runner::comm::nccl::Nccl;

    use super::*;

    #[test]
    fn a_group_of_one_gets_what_is_its_own() {
        let context = match Device::Cuda(0).context() {
            Ok(context) => context.expect("only the processor has none"),
            Err(why) => return eprintln!("skipped: {why}"),
        };
        let group = match Nccl::join(&Alone, &context, PATIENT) {
            Ok(group) => group,
            Err(why @ Error::Attention(_)) => return eprintln!("skipped: {why}"),
            Err(why) => panic!("{why}"),
        };
        collectives(&group).unwrap();
        group.finish().unwrap();
    }

    #[test]
    fn what_is_no_gpu_is_refused_on_all_ranks() {
        let context = "emulated".parse::<Device>().unwrap().context().unwrap().unwrap();
        let errors = std::sync::Mutex::new(Vec::new());
        let group = threads::run(3, PATIENT, |comm| {
            let error = Nccl::join(comm, &context, PATIENT).err().expect("no GPU");
            errors.lock().unwrap().push(error.to_string());
            Err::<(), _>(error)
        });
        let one = group.unwrap_err().to_string();
        assert!(one.contains("no NCCL on this machine") || one.contains("no CUDA device"), "{one}");
        assert_eq!(errors.into_inner().unwrap(), [&*one; 3]);
    }
}

#[test]
fn a_command_without_ranks_is_not_run_by_several_processes() {
    let plan = ["plan", "--model", "nowhere", "--length", "4k"];
    for launcher in [
        [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "3")],
        [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "3")],
    ] {
        let mut command = program::command(plan);
        let output = command.envs(launcher).output().unwrap();
        program::Run { output, command: format!("{command:?}") }
            .fails(2, &["lacuna plan does not run on several ranks, but", "started 3 processes"]);
    }
    program::lacuna(["launch", "--np", "2", "--", "plan", "--model", "nowhere", "--length", "4k"])
        .fails(2, &["lacuna plan does not run on several ranks"]);
    program::lacuna(["launch", "--np", "3", "--nodes", "2", "--", "infer"])
        .fails(2, &["--np must be a multiple of --nodes (2), got 3"]);
}

#[test]
fn launching_needs_mpi() {
    let command = ["infer", "-m", "DIR", "-i", "it's.jsonl", "-o", "out.jsonl"];
    let launch =
        |args: &[&'static str]| program::lacuna([&["launch", "--np", "4"], args, &["--"], &command].concat());
    let printed = launch(&["--print"]);
    if cfg!(feature = "mpi") {
        let program = env!("CARGO_BIN_EXE_lacuna");
        let want =
            format!(r"mpirun -np 4 --bind-to none {program} infer -m DIR -i 'it'\''s.jsonl' -o out.jsonl");
        assert_eq!(printed.ok().trim_end(), want);
        let mut nowhere = program::command(["launch", "--np", "4", "--"].into_iter().chain(command));
        let output = nowhere.env("PATH", "/nowhere").output().unwrap();
        program::Run { output, command: "without a PATH".into() }.fails(1, &["cannot find mpirun"]);
    } else {
        printed.fails(1, &["built without MPI", "--features mpi", "--np 4"]);
        launch(&[]).fails(1, &["built without MPI"]);
    }
    program::lacuna(["launch", "--np", "4", "--"].into_iter().chain(command).chain(["--np", "2"]))
        .fails(2, &["--np is 4 for launch and 2 for infer"]);
}

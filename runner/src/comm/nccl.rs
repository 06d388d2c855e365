//! What ranks do together, over NCCL.
//!
//! [`Nccl`] lies over another [`Communicator`] of the same ranks, each of which has a GPU of its own. Messages of two ranks alone,
//! and the lengths of all others, go by that one, with its time limit, so a rank that has ended or does not answer is known before
//! NCCL has to wait for it. The messages of [`Communicator::broadcast`], [`Communicator::all_gather`] and
//! [`Communicator::rotate`] go from GPU to GPU: NVLink, PCIe or a network, as NCCL finds.
//!
//! NCCL is loaded when it is first used, under the name `libnccl.so`; none is needed to build or to start. Version 2.14 or newer.
//!
//! What has been run: nothing but the refusals where there is no NCCL. NCCL takes two ranks on one GPU for a mistake, so that even
//! the test on a GPU has one rank; transfers between GPUs are written after NCCL's documentation and have not been seen to work.

use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self as driver, CUresult};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;
use lacuna::DeviceError;
use lacuna::gpu::{Context, DeviceBuffer, Stream};
use libloading::Library;

use super::Communicator;
use crate::report::format_duration;
use crate::{Error, Result};

/// Names under which the bindings look for the library too, which panic where they find none.
#[cfg(windows)]
const NAMES: &[&str] = &["nccl.dll"];
/// As above.
#[cfg(not(windows))]
const NAMES: &[&str] = &["libnccl.so", "libnccl.so.12"];

/// The first version that can be set up without blocking, as NCCL counts: 2.14.0.
const MIN_VERSION: i32 = 21400;

/// Marks an `ncclConfig_t` that was filled in.
const CONFIG_MAGIC: u32 = 0xcafe_beef;

/// The version whose `ncclConfig_t` the bindings have: 2.22.0.
const CONFIG_VERSION: u32 = 22200;

/// A field of an `ncclConfig_t` that NCCL chooses.
const UNDEFINED: i32 = i32::MIN;

/// Bytes that the unique name of a group has.
const ID_BYTES: usize = size_of::<sys::ncclUniqueId>();

/// A group of ranks with a GPU each. See the module's documentation for what goes where, and for what has not been run.
pub struct Nccl<'a> {
    host: &'a dyn Communicator,
    timeout: Duration,
    link: Mutex<Link>,
}

/// NCCL's group, and room for what travels.
struct Link {
    /// Null once it has been given up.
    group: sys::ncclComm_t,
    context: Context,
    stream: Stream,
    send: DeviceBuffer<u8>,
    recv: DeviceBuffer<u8>,
}

// SAFETY: what is in it that is not `Send` is NCCL's group, which is bound to a device and not to a thread. It is used by one thread
// at a time, the one that holds the lock around the link.
unsafe impl Send for Link {}

impl<'a> Nccl<'a> {
    /// Joins the ranks of `host` into a group of NCCL's; all of them call it, each with a context of a GPU of its own.
    ///
    /// A transfer may take `timeout`.
    ///
    /// # Errors
    /// [`Error::Attention`] where there is no NCCL or `context` is no CUDA device, [`Error::Transport`] where NCCL refuses (two
    /// ranks on one GPU among that), and as [`Communicator::broadcast`] of `host`.
    pub fn join(host: &'a dyn Communicator, context: &Context, timeout: Duration) -> Result<Self> {
        // What one rank is refused must not leave the others to wait inside NCCL.
        let link = check_library().and_then(|()| Link::new(context));
        let ready = host.all_gather(&[link.is_ok().into()])?;
        let mut link = link?;
        if let Some(rank) = ready.iter().position(|ready| ready != &[1]) {
            return Err(Error::Rank { rank, what: "cannot use NCCL".into() });
        }
        let id = if host.rank() == 0 { new_id() } else { Ok([0; ID_BYTES]) };
        let shared = host.broadcast(0, id.as_ref().map_or(&[][..], |id| &id[..]))?;
        id?;
        let id = shared.try_into().map_err(|_| Error::Rank { rank: 0, what: "cannot use NCCL".into() })?;
        link.start(id, host.rank(), host.world_size(), timeout)?;
        Ok(Self { host, timeout, link: Mutex::new(link) })
    }

    /// Leaves the group once all ranks have come here: until then others may read from this GPU's memory. A group that is dropped
    /// without is given up, which its ranks may notice.
    ///
    /// # Errors
    /// As [`Communicator::barrier`].
    pub fn finish(self) -> Result<()> {
        self.host.barrier()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Communicator for Nccl<'_> {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world_size(&self) -> usize {
        self.host.world_size()
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        self.host.send(to, message)
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        self.host.recv(from)
    }

    fn broadcast(&self, root: usize, message: &[u8]) -> Result<Vec<u8>> {
        let len = length(&self.host.broadcast(root, &message.len().to_le_bytes())?, root)?;
        let mut link = self.link();
        let is_root = self.rank() == root;
        if is_root {
            link.load(message)?;
        }
        link.reserve(len)?;
        link.transfer(self.timeout, len, |link| {
            let recv = link.recv.ptr().0 as *mut c_void;
            let send = if is_root { link.send.ptr().0 as *const _ } else { recv.cast_const() };
            let stream = link.stream();
            // SAFETY: at the root `send` holds `len` bytes, elsewhere it is not read; `recv` has room for as many on every rank.
            // Both live until `transfer` has waited for it. The group is alive.
            unsafe {
                result::broadcast(
                    send,
                    recv,
                    len,
                    sys::ncclDataType_t::ncclUint8,
                    root as i32,
                    link.group,
                    stream,
                )
            }
        })?;
        link.received(0, len)
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.host.all_gather(&message.len().to_le_bytes())?;
        let lengths: Result<Vec<usize>> =
            lengths.iter().enumerate().map(|(rank, bytes)| length(bytes, rank)).collect();
        let lengths = lengths?;
        // NCCL takes as much from each: the rest of the shorter ones is whatever lies there.
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut link = self.link();
        link.room_to_send(longest)?;
        link.load(message)?;
        let total = longest.checked_mul(lengths.len());
        let total = total.ok_or_else(|| Error::OutOfMemory {
            what: "messages of all ranks",
            bytes: longest as u128 * lengths.len() as u128,
        })?;
        link.reserve(total)?;
        link.transfer(self.timeout, longest, |link| {
            let (send, recv) = (link.send.ptr().0 as *const _, link.recv.ptr().0 as *mut _);
            // SAFETY: `send` has room for `longest` bytes and `recv` for as many of every rank. Both live until `transfer` has waited
            // for it. The group is alive.
            unsafe {
                result::all_gather(
                    send,
                    recv,
                    longest,
                    sys::ncclDataType_t::ncclUint8,
                    link.group,
                    link.stream(),
                )
            }
        })?;
        lengths.iter().enumerate().map(|(rank, &len)| link.received(rank * longest, len)).collect()
    }

    fn rotate(&self, message: &[u8]) -> Result<Vec<u8>> {
        let (rank, size) = (self.rank(), self.world_size());
        if size == 1 {
            return Ok(message.to_vec());
        }
        let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
        let len = length(&self.host.rotate(&message.len().to_le_bytes())?, previous)?;
        let mut link = self.link();
        link.load(message)?;
        link.reserve(len)?;
        link.transfer(self.timeout, message.len().max(len), |link| {
            let (send, recv) = (link.send.ptr().0 as *const _, link.recv.ptr().0 as *mut _);
            let (bytes, stream) = (sys::ncclDataType_t::ncclUint8, link.stream());
            // In one group: else each rank would send before it receives, and wait for the next one to.
            result::group_start()?;
            // SAFETY: `send` holds the message and `recv` has room for that of the previous rank. Both live until `transfer` has waited
            // for them. The group is alive.
            let queued = unsafe {
                let sent = match message.len() {
                    0 => Ok(NcclStatus::Success),
                    len => result::send(send, len, bytes, next as i32, link.group, stream),
                };
                sent.and_then(|_| match len {
                    0 => Ok(NcclStatus::Success),
                    len => result::recv(recv, len, bytes, previous as i32, link.group, stream),
                })
            };
            // Ended in any case: it is this thread's, and would swallow all later calls.
            let ended = result::group_end();
            queued.and(ended)
        })?;
        link.received(0, len)
    }
}

impl Link {
    /// Without a group yet.
    fn new(context: &Context) -> Result<Self> {
        make_current(context)?;
        Ok(Self {
            group: std::ptr::null_mut(),
            context: context.clone(),
            stream: context.new_stream()?,
            send: DeviceBuffer::uninit(context, 0, "messages to send")?,
            recv: DeviceBuffer::uninit(context, 0, "messages received")?,
        })
    }

    fn start(&mut self, id: [u8; ID_BYTES], rank: usize, size: usize, timeout: Duration) -> Result<()> {
        make_current(&self.context)?;
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as _) };
        let mut config = sys::ncclConfig_t {
            size: size_of::<sys::ncclConfig_t>(),
            magic: CONFIG_MAGIC,
            version: CONFIG_VERSION,
            // Calls come back at once, and `settle` waits with a limit.
            blocking: 0,
            cgaClusterSize: UNDEFINED,
            minCTAs: UNDEFINED,
            maxCTAs: UNDEFINED,
            netName: std::ptr::null(),
            splitShare: UNDEFINED,
        };
        // SAFETY: the pointers are those of locals and of `self.group`, which NCCL writes before it comes back; the config is filled in
        // as its initialiser would. The device's context is current.
        let begun = unsafe {
            result::comm_init_rank_config(&mut self.group, size as i32, id, rank as i32, &mut config)
        };
        let settled = self.settle("ncclCommInitRankConfig", begun, Instant::now(), timeout);
        settled.inspect_err(|_| self.give_up())
    }

    fn stream(&self) -> sys::cudaStream_t {
        self.stream.raw().as_ptr().cast()
    }

    /// Makes room for `bytes` to be sent.
    fn room_to_send(&mut self, bytes: usize) -> Result<()> {
        if self.send.len() < bytes {
            self.send = DeviceBuffer::uninit(&self.context, bytes, "messages to send")?;
        }
        Ok(())
    }

    /// Copies a message to the GPU.
    fn load(&mut self, message: &[u8]) -> Result<()> {
        self.room_to_send(message.len())?;
        Ok(self.send.copy_from_host(&self.stream, message)?)
    }

    /// Makes room for `bytes` to be received.
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.recv.len() < bytes {
            self.recv = DeviceBuffer::uninit(&self.context, bytes, "messages received")?;
        }
        Ok(())
    }

    /// Copies what was received from the GPU.
    fn received(&self, first: usize, len: usize) -> Result<Vec<u8>> {
        let mut message = crate::error::allocate("a message of another rank", len)?;
        self.recv.copy_to_host(&self.stream, first, &mut message)?;
        Ok(message)
    }

    /// Queues a transfer and waits until it is done. All ranks know `len`; of nothing there is no transfer.
    ///
    /// After an error nothing of it is on its way any more, and the group is of no more use.
    fn transfer(
        &mut self,
        timeout: Duration,
        len: usize,
        queue: impl FnOnce(&Self) -> Result<NcclStatus, NcclError>,
    ) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        if self.group.is_null() {
            return Err(refused("NCCL", "the group was given up after an error"));
        }
        make_current(&self.context)?;
        let start = Instant::now();
        let queued = queue(self);
        let done = self.settle("NCCL", queued, start, timeout).and_then(|()| {
            self.poll("cuStreamQuery", start, timeout, |link| {
                // SAFETY: the stream is alive, and its context current.
                match unsafe { driver::cuStreamQuery(link.stream().cast()) } {
                    CUresult::CUDA_SUCCESS => Ok(true),
                    CUresult::CUDA_ERROR_NOT_READY => link.is_settled().map(|_| false),
                    other => Err(refused("cuStreamQuery", format!("{other:?}"))),
                }
            })
        });
        done.inspect_err(|_| self.give_up())
    }

    /// Waits until NCCL has taken in a call.
    fn settle(
        &self,
        call: &'static str,
        status: Result<NcclStatus, NcclError>,
        start: Instant,
        timeout: Duration,
    ) -> Result<()> {
        match status {
            Err(e) => Err(refused(call, explain(&e))),
            Ok(_) => self.poll(call, start, timeout, Self::is_settled),
        }
    }

    /// Whether NCCL has nothing to do but what is on the stream.
    fn is_settled(&self) -> Result<bool> {
        let mut status = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the group is alive; `status` is a local.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.group, &mut status) };
        match asked.result().and_then(|_| status.result()) {
            Ok(NcclStatus::InProgress) => Ok(false),
            Ok(_) => Ok(true),
            Err(e) => Err(refused("NCCL", explain(&e))),
        }
    }

    fn poll(
        &self,
        call: &'static str,
        start: Instant,
        timeout: Duration,
        done: impl Fn(&Self) -> Result<bool>,
    ) -> Result<()> {
        while !done(self)? {
            match start.elapsed() {
                waited if waited >= timeout => {
                    return Err(refused(call, format!("not done after {}", format_duration(timeout))));
                }
                waited if waited < Duration::from_micros(200) => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
        Ok(())
    }

    /// Ends whatever of the group's is on the GPU, and the group.
    fn give_up(&mut self) {
        let group = std::mem::replace(&mut self.group, std::ptr::null_mut());
        if !group.is_null() && make_current(&self.context).is_ok() {
            // SAFETY: the group is alive, and nobody has it any more. A failure has nowhere to go.
            let _ = unsafe { result::comm_abort(group) };
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Before the buffers are freed. Unlike destroying a group, this does not wait for other ranks.
        self.give_up();
    }
}

/// Refuses where there is no NCCL, or an old one.
fn check_library() -> Result<()> {
    // Kept: the bindings load it right after.
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: its constructors ask nothing of us.
    let load = || NAMES.iter().find_map(|&name| unsafe { Library::new(name) }.ok());
    if LIBRARY.get_or_init(load).is_none() {
        let missing = DeviceError::NoLibrary { library: "NCCL", looked_for: NAMES.join(", ") };
        return Err(lacuna::Error::from(missing).into());
    }
    match result::get_nccl_version() {
        Ok(version) if version >= MIN_VERSION => Ok(()),
        Ok(version) => {
            Err(refused("ncclGetVersion", format!("version 2.14 is needed (21400), this is {version}")))
        }
        Err(e) => Err(refused("ncclGetVersion", explain(&e))),
    }
}

/// Makes the device current on this thread: NCCL takes the device from there.
fn make_current(context: &Context) -> Result<()> {
    match context.driver().make_current().map_err(lacuna::Error::from)? {
        true => Ok(()),
        false => Err(refused("NCCL", format!("no CUDA device ({})", context.info().name))),
    }
}

/// A name that no other group has.
fn new_id() -> Result<[u8; ID_BYTES]> {
    let id = result::get_uniqueid().map_err(|e| refused("ncclGetUniqueId", explain(&e)))?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// A message's length, as another rank has sent it.
fn length(bytes: &[u8], rank: usize) -> Result<usize> {
    let bytes = bytes.try_into().map_err(|_| Error::Rank { rank, what: "has sent no length".into() })?;
    Ok(usize::from_le_bytes(bytes))
}

fn refused(call: &'static str, reason: impl Into<String>) -> Error {
    Error::Transport { call, reason: reason.into() }
}

fn explain(e: &NcclError) -> String {
    // SAFETY: NCCL gives a text that is never freed, whatever the number.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(e.0)) };
    text.to_string_lossy().into_owned()
}

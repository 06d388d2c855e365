//! The calls of MPI, from one thread at a time.

use std::ffi::c_int;
use std::mem::{ManuallyDrop, MaybeUninit, take};

use mpi::ffi;

use crate::{Error, Result};

/// What a message of MPI's is to ours. Messages of one rank are matched in the order in which they were sent, whatever their tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Tag {
    /// The last part of a message.
    Last = 1,
    /// A part that others follow.
    More = 2,
    /// Nothing comes after it.
    End = 3,
}

/// MPI, as far as it is used here: who has it may call MPI. It lies behind a lock, so its calls come one at a time.
pub(super) struct Lane {
    sent: Vec<Sent>,
    /// Why a message could not be sent, where that turned out after the call that sent it.
    failed: Option<Error>,
}

// SAFETY: what is in it that is not `Send` are requests: handles of MPI, whose calls take them on any thread of the process. MPI
// runs at level `Serialized` (see `Lane::new`): calls may come from any thread, one at a time. All of them are made by methods
// that borrow the one lane mutably.
unsafe impl Send for Lane {}

/// A message that MPI may still read.
struct Sent {
    request: ffi::MPI_Request,
    to: usize,
    /// Freed when MPI is done with it, and not otherwise.
    message: ManuallyDrop<Box<[u8]>>,
}

/// A message that MPI may still write.
pub(super) struct Receipt {
    request: ffi::MPI_Request,
    tag: Tag,
    /// Bytes to come, written behind the buffer's length.
    len: usize,
    /// Given back when MPI is done with it. A receipt that is dropped before leaks it.
    buffer: ManuallyDrop<Vec<u8>>,
}

/// How far a message is.
pub(super) enum Progress {
    /// It is there: its tag, and the buffer with its bytes appended.
    Done(Tag, Vec<u8>),
    /// It is not.
    Waits(Receipt),
}

impl Lane {
    /// Makes MPI's calls on its world return their errors.
    ///
    /// # Safety
    /// MPI is initialised at level `Serialized` or above and stays so until the lane's last call. There is one lane, and between
    /// its first and its last call nothing else calls MPI.
    pub unsafe fn new() -> Result<Self> {
        // SAFETY: MPI is initialised, says the caller; both are constants of MPI's.
        let code = unsafe { ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) };
        check("MPI_Comm_set_errhandler", code)?;
        Ok(Self { sent: Vec::new(), failed: None })
    }

    /// This process and the number of processes.
    pub fn rank_and_size(&mut self) -> Result<(usize, usize)> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: the lane's calls are MPI's only ones; the pointers are those of locals.
        check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank) })?;
        // SAFETY: likewise.
        check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size) })?;
        Ok((rank as usize, size as usize))
    }

    /// Hands a message to MPI and does not wait. `message` has at most `i32::MAX` bytes.
    pub fn post(&mut self, to: usize, tag: Tag, message: Box<[u8]>) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)?;
        let len = c_int::try_from(message.len())
            .map_err(|_| Error::invalid("message", "2^31 - 1 bytes at most", message.len()))?;
        let mut request = MaybeUninit::uninit();
        // From here on the bytes are MPI's: they are reached through this box alone, which stays where it is.
        let message = ManuallyDrop::new(message);
        // SAFETY: the lane's calls are MPI's only ones; the bytes live until the request is done (`reap`), or for good.
        let code = unsafe {
            let bytes = message.as_ptr().cast();
            let world = ffi::RSMPI_COMM_WORLD;
            ffi::MPI_Isend(
                bytes,
                len,
                ffi::RSMPI_UINT8_T,
                to as c_int,
                tag as c_int,
                world,
                request.as_mut_ptr(),
            )
        };
        check("MPI_Isend", code)?;
        // SAFETY: the call succeeded and has written it.
        self.sent.push(Sent { request: unsafe { request.assume_init() }, to, message });
        Ok(())
    }

    /// Frees the messages that MPI has sent. One that it could not send is told by the next [`Lane::post`] or [`Lane::unsent`].
    pub fn reap(&mut self) {
        for mut sent in take(&mut self.sent) {
            match test(&mut sent.request) {
                // SAFETY: MPI is done with the message, and `sent` is dropped here.
                Ok(true) => unsafe { ManuallyDrop::drop(&mut sent.message) },
                Ok(false) => self.sent.push(sent),
                Err(e) => self.failed = Some(e),
            }
        }
    }

    /// Whether there is nothing to [`Lane::reap`].
    pub fn is_idle(&self) -> bool {
        self.sent.is_empty()
    }

    /// A rank that a message is still on the way to.
    pub fn unsent(&mut self) -> Result<Option<usize>> {
        self.failed.take().map_or(Ok(()), Err)?;
        self.reap();
        Ok(self.sent.first().map(|sent| sent.to))
    }

    /// Begins to receive the next message from a rank behind what `buffer` holds, if there is one; takes the buffer then.
    pub fn receive(&mut self, from: usize, buffer: &mut Vec<u8>) -> Result<Option<Receipt>> {
        let (mut found, mut len) = (0, 0);
        let (mut message, mut status) = (MaybeUninit::uninit(), MaybeUninit::<ffi::MPI_Status>::uninit());
        // SAFETY: the lane's calls are MPI's only ones; the pointers are those of locals.
        let code = unsafe {
            let (any, world) = (ffi::RSMPI_ANY_TAG, ffi::RSMPI_COMM_WORLD);
            ffi::MPI_Improbe(from as c_int, any, world, &mut found, message.as_mut_ptr(), status.as_mut_ptr())
        };
        check("MPI_Improbe", code)?;
        if found == 0 {
            return Ok(None);
        }
        // SAFETY: a message was found, so the call has written both.
        let (mut message, status) = unsafe { (message.assume_init(), status.assume_init()) };
        // SAFETY: as above.
        check("MPI_Get_count", unsafe { ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut len) })?;
        let tag = match status.MPI_TAG {
            tag if tag == Tag::Last as c_int => Tag::Last,
            tag if tag == Tag::More as c_int => Tag::More,
            tag if tag == Tag::End as c_int => Tag::End,
            tag => {
                let reason = format!("a message with tag {tag} that this program does not send");
                return Err(Error::Transport { call: "MPI_Improbe", reason });
            }
        };
        let out_of_memory = |_| Error::OutOfMemory { what: "a message of another rank", bytes: len as u128 };
        buffer.try_reserve(len as usize).map_err(out_of_memory)?;
        let mut buffer = ManuallyDrop::new(take(buffer));
        let mut request = MaybeUninit::uninit();
        // SAFETY: as above; the buffer has room for `len` bytes behind its length. They are reached through the receipt alone, which
        // does not touch them until the request is done, and leaks them where it never is.
        let code = unsafe {
            let bytes = buffer.spare_capacity_mut().as_mut_ptr().cast();
            ffi::MPI_Imrecv(bytes, len, ffi::RSMPI_UINT8_T, &mut message, request.as_mut_ptr())
        };
        check("MPI_Imrecv", code)?;
        // SAFETY: the call succeeded and has written it.
        Ok(Some(Receipt { request: unsafe { request.assume_init() }, tag, len: len as usize, buffer }))
    }

    /// Goes on receiving a message.
    pub fn go_on(&mut self, mut receipt: Receipt) -> Result<Progress> {
        if !test(&mut receipt.request)? {
            return Ok(Progress::Waits(receipt));
        }
        let mut buffer = ManuallyDrop::into_inner(receipt.buffer);
        // SAFETY: MPI has written that many bytes behind the buffer's length, into room that was reserved for them.
        unsafe { buffer.set_len(buffer.len() + receipt.len) };
        Ok(Progress::Done(receipt.tag, buffer))
    }

    /// Ends all processes of the world, this one included.
    pub fn abort(&mut self, code: u8) -> ! {
        // SAFETY: the lane's calls are MPI's only ones.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code.into()) };
        // It does not return.
        std::process::exit(code.into())
    }
}

/// Whether MPI is done with a request. A private function of this file: its callers borrow the lane mutably.
fn test(request: &mut ffi::MPI_Request) -> Result<bool> {
    let mut done = 0;
    // SAFETY: the lane's calls are MPI's only ones; the request came from MPI, which makes it null when it is done.
    let code = unsafe { ffi::MPI_Test(request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
    check("MPI_Test", code)?;
    Ok(done != 0)
}

fn check(call: &'static str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0_u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len = 0;
    // SAFETY: the lane's calls are MPI's only ones; the text has the room that MPI asks for.
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let reason = match usize::try_from(len) {
        Ok(len) if known == ffi::MPI_SUCCESS as c_int && len < text.len() => {
            String::from_utf8_lossy(&text[..len]).into_owned()
        }
        _ => format!("error {code}"),
    };
    Err(Error::Transport { call, reason })
}

//! Writes that a whole core waits for: those of the log.
//!
//! The runtime hands what it is asked for to the kernel when the tasks of a pass are done, and a write followed by a sync is
//! asked for twice. So these writes have a ring of their own. The write and its sync are submitted together and at once,
//! linked, and the disk works while the core goes on with its pass.
//!
//! A sync goes through a thread of the kernel's, and where disks are fast that and noticing the end cost more time than the
//! disk needs. So who knows that the core has nothing better to do makes the calls themselves and blocks it.
//!
//! The ring lies in the core's epoll set, so its completions are noticed as sockets are. A buffer belongs to the ring until
//! its write has ended, whatever becomes of who asked for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::io::DmaBuffer;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};

use super::Core;
use super::sockets::{remember, wake};
use crate::rt::fs::in_doubt;
use crate::rt::whole::{Rest, write_whole};

/// A log has one write in flight; more come only from several logs on a core.
const DEPTH: u32 = 64;

/// The ring of a core, made for its first urgent write.
#[derive(Default)]
pub(crate) struct Urgent {
    ring: RefCell<Option<IoUring>>,
    /// By number.
    flights: RefCell<BTreeMap<u64, Rc<Flight>>>,
    next_number: Cell<u64>,
}

/// One write in flight, with its sync.
struct Flight {
    buffer: Rc<DmaBuffer>,
    /// Where in the buffer the write begins.
    from: usize,
    /// Bytes that were written, all of them unless the kernel says otherwise.
    written: Cell<usize>,
    syncs: bool,
    /// A write before a sync is heard of only if it fails, and then it is the last that is heard.
    quiet: bool,
    /// Its last completion has arrived.
    ended: Cell<bool>,
    failure: RefCell<Option<io::Error>>,
    waiter: RefCell<Option<Waker>>,
}

impl std::fmt::Debug for Urgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} urgent writes in flight", self.flights.borrow().len())
    }
}

impl Core {
    /// Writes the whole buffer at `pos` of `file`, at once, and then makes it durable if `sync` says so. The caller keeps the
    /// file open until this is done, and awaits it even if no caller needs the result any more.
    pub(super) async fn write_urgently(
        &self,
        file: RawFd,
        buffer: DmaBuffer,
        pos: u64,
        sync: bool,
    ) -> io::Result<()> {
        let buffer = Rc::new(buffer);
        write_whole(buffer.len(), async |from| {
            let flight = self.urgent().submit(self, Fd(file), (buffer.clone(), from), pos, sync)?;
            poll_fn(|cx| {
                if !flight.ended.get() {
                    remember(&flight.waiter, cx);
                    return Poll::Pending;
                }
                Poll::Ready(flight.failure.take().map_or(Ok(flight.written.get()), Err))
            })
            .await
        })
        .await
    }
}

impl Urgent {
    fn submit(
        &self,
        core: &Core,
        file: Fd,
        (buffer, from): (Rc<DmaBuffer>, usize),
        pos: u64,
        sync: bool,
    ) -> io::Result<Rc<Flight>> {
        let mut ring = self.ring.borrow_mut();
        if ring.is_none() {
            *ring = Some(new_ring(core)?);
        }
        let ring = ring.as_mut().expect("made above");
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let bytes = &buffer.as_bytes()[from..];
        let len = u32::try_from(bytes.len()).expect("a write is far below 4 GiB");
        let write = opcode::Write::new(file, bytes.as_ptr(), len).offset(pos + from as u64).build();
        let flight = Rc::new(Flight {
            written: Cell::new(bytes.len()),
            buffer,
            from,
            syncs: sync,
            // To hear that the write is done would only cost a pass: it is the sync that counts.
            quiet: ring.params().is_feature_skip_cqe_on_success(),
            ended: Cell::new(false),
            failure: RefCell::default(),
            waiter: RefCell::default(),
        });
        self.flights.borrow_mut().insert(number, flight.clone());
        let last = number << 1 | 1;
        if sync {
            let mut flags = Flags::IO_LINK;
            flags.set(Flags::SKIP_SUCCESS, flight.quiet);
            let sync = opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build();
            queue(ring, &[write.user_data(number << 1).flags(flags), sync.user_data(last)]);
        } else {
            queue(ring, &[write.user_data(last)]);
        }
        enter(ring);
        Ok(flight)
    }

    /// Takes in what has ended. To be called when the ring has reported something.
    pub(super) fn reap(&self) {
        let mut ring = self.ring.borrow_mut();
        let Some(ring) = ring.as_mut() else { return };
        for completion in ring.completion() {
            let (number, is_last) = (completion.user_data() >> 1, completion.user_data() & 1 == 1);
            let mut flights = self.flights.borrow_mut();
            let flight = flights.get(&number).expect("a write stays until its last completion").clone();
            flight.step(completion.result(), is_last && flight.syncs);
            if is_last || flight.quiet {
                flights.remove(&number);
                flight.ended.set(true);
                wake(&flight.waiter);
            }
        }
    }
}

impl Flight {
    /// Takes in what came of the write or of the sync. A write that failed or came out short takes its sync along, which then
    /// says nothing of its own.
    fn step(&self, result: i32, is_sync: bool) {
        let error = match usize::try_from(result) {
            Ok(_) if is_sync => return,
            Ok(done) => return self.written.set(done),
            Err(_) if is_sync && self.written.get() < self.buffer.len() - self.from => return,
            Err(_) if is_sync => in_doubt(&io::Error::from_raw_os_error(-result)),
            Err(_) => io::Error::from_raw_os_error(-result),
        };
        self.failure.borrow_mut().get_or_insert(error);
    }
}

/// Writes the whole buffer and syncs while the core blocks.
pub(super) fn write_blocking(
    file: BorrowedFd<'_>,
    buffer: &DmaBuffer,
    pos: u64,
    sync: bool,
) -> io::Result<()> {
    let mut rest = Rest::of(buffer.len());
    loop {
        let (bytes, pos) = (&buffer.as_bytes()[rest.from..], pos + rest.from as u64);
        if rest.take(rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, pos))?)? {
            break;
        }
    }
    if sync {
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(file)).map_err(|error| in_doubt(&error.into()))?;
    }
    Ok(())
}

/// A ring whose completions interrupt no thread, where the kernel knows that, and that reports them to the core's epoll set.
fn new_ring(core: &Core) -> io::Result<IoUring> {
    let calm = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(DEPTH);
    let ring = calm.or_else(|_| IoUring::new(DEPTH))?;
    // SAFETY: the ring is alive during the call and keeps its descriptor open for as long as it lives, which is as long as
    // the core's epoll set needs it.
    core.watch_ring(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.as_fd())?;
    Ok(ring)
}

fn queue(ring: &mut IoUring, entries: &[Entry]) {
    let queued = ring.submission();
    let room = queued.capacity() - queued.len();
    drop(queued);
    if room < entries.len() {
        enter(ring);
    }
    // SAFETY: the entries name a buffer that its flight holds until the last completion has arrived, and a file that the
    // caller keeps open as long.
    let pushed = unsafe { ring.submission().push_multiple(entries) };
    pushed.expect("there is room after everything queued was taken");
}

/// Hands over what is queued, all of it. Nothing may stay queued: its file may be another one by the time another task enters
/// the ring, and a sync that is taken later than its write is no longer linked to it.
fn enter(ring: &mut IoUring) {
    const PASSING: [i32; 2] = [libc::EINTR, libc::EAGAIN];
    let queued = ring.submission().len();
    loop {
        match ring.submit() {
            Ok(taken) => {
                assert_eq!(taken, queued, "the kernel has taken a part of the urgent writes");
                return;
            }
            Err(error) => {
                let passes = error.raw_os_error().is_some_and(|number| PASSING.contains(&number));
                assert!(passes, "the ring of urgent writes takes no more: {error}");
            }
        }
    }
}

//! Threads that share one piece of work after another.
//!
//! A token of a small model is some hundred products of some tens of microseconds each, so what it costs to hand one to
//! other threads counts. The caller works itself, and helpers that have just worked look for more for some tens of
//! microseconds before they sleep: most of the time nobody has to be woken. A helper that does not come in time is not
//! waited for. Where several callers come at once, one has the helpers and the others work alone.
//!
//! Work that is asked for by one of rayon's threads (whoever runs several models beside each other) stays with rayon.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, Once, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::threads;

/// How long a helper looks for work before it sleeps.
const AWAKE: Duration = Duration::from_micros(60);
/// Looks between two of the clock.
const LOOKS: u32 = 64;

/// Runs `work` for every number below `count`, on all threads; in no order.
pub(super) fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    if count < 2 {
        (0..count).for_each(work);
    } else if rayon::current_thread_index().is_some() {
        (0..count).into_par_iter().for_each(&work);
    } else {
        POOL.share(count, &work);
    }
}

/// What `make` makes of every number below `count`.
pub(super) fn map<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut made: Vec<Option<T>> = (0..count).map(|_| None).collect();
    chunks(&mut made, 1, |i, place| place[0] = Some(make(i)));
    made.into_iter().flatten().collect()
}

/// Runs `work` on every part of `size` values, the last one may be shorter, with its number.
pub(super) fn chunks<T: Send>(
    values: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let parts = Parts::new(values, size);
    // SAFETY: every part is taken once.
    for_each(parts.count(), |i| work(i, unsafe { parts.take(i) }));
}

/// Parts of values, each for one thread.
pub(super) struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    size: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: see `Parts::take`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(values: &'a mut [T], size: usize) -> Self {
        Parts {
            at: values.as_mut_ptr(),
            len: values.len(),
            size: size.max(1),
            lent: PhantomData,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    /// # Safety
    /// Nobody else has this part.
    #[allow(clippy::mut_from_ref)] // What the caller answers for.
    pub(super) unsafe fn take(&self, i: usize) -> &mut [T] {
        let from = (i * self.size).min(self.len);
        let len = self.size.min(self.len - from);
        // SAFETY: the part is within the values, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(from), len) }
    }
}

/// Something to do, which lives until its caller has closed the gate.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    count: usize,
}

/// A cache line of its own.
#[repr(align(64))]
struct Line<T>(T);

/// How many helpers are at work, whether more may come, and which piece of work it is.
const HELPER: u64 = 1;
const HELPERS: u64 = OPEN - 1;
const OPEN: u64 = 1 << 16;
const TURN: u64 = 1 << 17;

struct Pool {
    started: Once,
    owner: Mutex<()>,
    gate: Line<AtomicU64>,
    /// The next number that nobody has taken.
    next: Line<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    /// What a helper panicked with.
    broken: Mutex<Option<Box<dyn Any + Send>>>,
    sleeping: AtomicUsize,
    door: Mutex<()>,
    bell: Condvar,
}

// SAFETY: the job is written by the owner while the gate is closed and nobody is at work, and read by helpers that came
// in through the open gate.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool {
    started: Once::new(),
    owner: Mutex::new(()),
    gate: Line(AtomicU64::new(0)),
    next: Line(AtomicUsize::new(0)),
    job: UnsafeCell::new(None),
    broken: Mutex::new(None),
    sleeping: AtomicUsize::new(0),
    door: Mutex::new(()),
    bell: Condvar::new(),
};

thread_local! {
    /// Whether this thread has been put on the big cores.
    static PLACED: Cell<bool> = const { Cell::new(false) };
}

/// Closes the gate and waits for those who came in, however the owner's own work ends.
struct Closing<'a>(&'a Pool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let gate = &self.0.gate.0;
        gate.fetch_and(!OPEN, AcqRel);
        let mut looks = 0u32;
        while gate.load(Acquire) & HELPERS > 0 {
            looks += 1;
            if looks.is_multiple_of(16 * LOOKS) {
                // Its core may have been given to somebody else.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Pool {
    fn share(&'static self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        self.started.call_once(|| {
            for i in 1..rayon::current_num_threads() {
                let helper = std::thread::Builder::new().name(format!("kernels-{i}"));
                // With fewer of them the work is done too.
                let _ = helper.spawn(|| self.help());
            }
        });
        if !PLACED.replace(true) {
            threads::stay_on_big_cores();
        }
        let owner = match self.owner.try_lock() {
            Ok(owner) => owner,
            // Its own work panicked; the gate was closed all the same.
            Err(TryLockError::Poisoned(owner)) => owner.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..count).for_each(work),
        };
        // What helpers panicked with when the owner did so too.
        drop(self.take_broken());
        // SAFETY: only the lifetime is another one; the job is gone before this returns, see `Closing`.
        let job = Job {
            work: unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), _>(work) },
            count,
        };
        // SAFETY: the gate is closed and nobody is at work: the last owner has waited for that.
        unsafe { *self.job.get() = Some(job) };
        self.next.0.store(0, Relaxed);
        let turn = (self.gate.0.load(Relaxed) & !HELPERS) + TURN;
        let closing = Closing(self);
        self.gate.0.store(turn | OPEN, SeqCst);
        if self.sleeping.load(SeqCst) > 0 {
            let _door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
            self.bell.notify_all();
        }
        self.work(work, count);
        drop(closing);
        let broken = self.take_broken();
        drop(owner);
        if let Some(broken) = broken {
            resume_unwind(broken);
        }
    }

    fn take_broken(&self) -> Option<Box<dyn Any + Send>> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.take()
    }

    fn work(&self, work: &(dyn Fn(usize) + Sync), count: usize) {
        loop {
            let i = self.next.0.fetch_add(1, Relaxed);
            if i >= count {
                return;
            }
            work(i);
        }
    }

    /// What helpers do all their life.
    fn help(&self) {
        threads::stay_on_big_cores();
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.enter(seen) {
                // SAFETY: the job was written before the gate opened, and lives until this helper has left.
                let job = unsafe { *self.job.get() };
                if let Some(Job { work, count }) = job {
                    // SAFETY: as above.
                    let work = unsafe { &*work };
                    let done = catch_unwind(AssertUnwindSafe(|| self.work(work, count)));
                    if let Err(broken) = done {
                        let mut place = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                        *place = Some(broken);
                    }
                }
                self.gate.0.fetch_sub(HELPER, Release);
            }
        }
    }

    /// Waits for another turn than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        let turn = || self.gate.0.load(SeqCst) / TURN;
        let start = Instant::now();
        let mut looks = 0u32;
        while turn() == seen {
            looks += 1;
            if looks.is_multiple_of(LOOKS) && start.elapsed() > AWAKE {
                let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
                self.sleeping.fetch_add(1, SeqCst);
                while turn() == seen {
                    door = self.bell.wait(door).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleeping.fetch_sub(1, SeqCst);
            }
            std::hint::spin_loop();
        }
        turn()
    }

    /// Comes in, if the gate of this turn is open still.
    fn enter(&self, turn: u64) -> bool {
        let come = |gate: u64| (gate / TURN == turn && gate & OPEN > 0).then_some(gate + HELPER);
        self.gate.0.fetch_update(AcqRel, Acquire, come).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_number_comes_once_whoever_calls() {
        let callers: Vec<_> = (0..3)
            .map(|seed: usize| {
                std::thread::spawn(move || {
                    for turn in 0..2000 {
                        let count = (turn * 7 + seed) % 40;
                        let seen: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                        for_each(count, |i| {
                            seen[i].fetch_add(1, Relaxed);
                            // From inside too.
                            if turn % 100 == 0 {
                                for_each(3, |_| {});
                            }
                        });
                        assert!(seen.iter().all(|n| n.load(Relaxed) == 1));
                        if turn % 500 == 0 {
                            // Long enough for helpers to fall asleep.
                            std::thread::sleep(2 * AWAKE);
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
    }

    #[test]
    fn parts_and_results_are_in_order() {
        let mut values = vec![0u32; 1003];
        chunks(&mut values, 10, |i, part| part.fill(i as u32));
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(at, v)| at / 10 == *v as usize)
        );
        chunks(&mut values[..0], 10, |_, _| unreachable!());
        assert_eq!(
            map(100, |i| i * i),
            (0..100).map(|i| i * i).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_panic_comes_to_the_caller_and_the_threads_stay() {
        for turn in 0..20 {
            let count = 64;
            let panicked = catch_unwind(|| {
                for_each(count, |i| {
                    std::thread::sleep(Duration::from_micros(50));
                    if i == turn * 3 {
                        // As a panic, without its message.
                        resume_unwind(Box::new(turn));
                    }
                });
            });
            assert!(panicked.is_err());
            let sum = AtomicUsize::new(0);
            for_each(count, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.load(Relaxed), count * (count - 1) / 2);
        }
    }
}

//! Many small pieces of work on all cores.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{EvalError, Result, data_error};

/// Does the work of every number, one on each core: a small model gains more from that than from many
/// threads for one picture.
pub(crate) fn on_all_cores<T: Send>(
    what: &str,
    numbers: &[usize],
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| data_error(Path::new("a thread"), e))?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(number) = numbers.get(i) else {
                return Ok(());
            };
            if i % 100 == 0 {
                eprintln!("{what}: {i} of {}", numbers.len());
            }
            match pool.install(|| work(*number)) {
                Ok(result) => done
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(result),
                Err(e) => {
                    // The others stop, too.
                    next.store(numbers.len(), Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| data_error(Path::new("a thread"), "it panicked"))??;
        }
        Ok::<(), EvalError>(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

//! Keeping a model in memory whatever else the board does.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

use crate::failure::{Failure, Outcome};

/// Locks what this process has in memory now, and what of its present mappings it will have: a packed
/// container's pages stay once they have been used.
pub(crate) fn lock() -> Outcome {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).map_err(|e| {
        let limit = match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("{} KiB", bytes >> 10),
            None => "everything".to_owned(),
        };
        Failure::new(format_args!(
            "[model] lock: {e}; this process may lock {limit} (ulimit -l, LimitMEMLOCK= of a service), \
             and all that it maps is counted"
        ))
    })
}

//! Whether a request fits a board, and how long it takes at least.

use kinglet_kernels::Footprint;
use kinglet_kernels::footprint::{Residency, Work};
use serde::Serialize;

/// Bytes of the program itself: code, threads, buffers of the broker's connection. Measured with the bundled
/// model (docs/boards.md).
pub const PROGRAM: u64 = 16 << 20;
/// Frames of a camera that are in memory at once, in RGB: the newest one, one that is being decoded, one that is
/// masked, and those that wait to be looked at.
pub const FRAMES: u64 = 3 + 16;

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Bytes of memory that may be taken.
    pub room: u64,
    /// Its ceilings, where they are known.
    pub ceilings: Option<Ceilings>,
}

/// What a machine can do at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Multiplications with additions of 8-bit integers a second.
    pub integer: f64,
    /// Multiplications with additions of 32-bit floats a second.
    pub float: f64,
    /// Bytes read from memory a second.
    pub read: f64,
}

/// What a request needs of a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Whether it fits.
    pub fits: bool,
    /// Bytes that may be taken.
    pub room: u64,
    /// Bytes that are needed: the sum of those below.
    pub needed: u64,
    /// Bytes of weights in memory of the program's own.
    pub weights: Classes,
    /// Bytes of weights in the mapped file, and of the rows of tables that are read. Those that are used at
    /// once are needed; the others can leave memory.
    pub mapped: Classes,
    /// Bytes of activations, keys and values at their most.
    pub activations: u64,
    /// Bytes of frames.
    pub cameras: u64,
    /// Bytes of the program.
    pub program: u64,
    /// The stages of the request.
    pub stages: Vec<Stage>,
    /// Seconds that all stages take at least, where the ceilings are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Bytes of weights by when they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Classes {
    /// While seeing and while drawing.
    pub always: u64,
    /// While seeing alone.
    pub seeing: u64,
    /// While drawing alone.
    pub drawing: u64,
    /// Not in this request.
    pub never: u64,
}

impl From<Residency> for Classes {
    fn from(all: Residency) -> Self {
        Classes {
            always: all.always,
            seeing: all.seeing,
            drawing: all.drawing,
            never: all.never,
        }
    }
}

/// A stage of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// What it does.
    pub name: String,
    /// How often.
    pub times: u64,
    /// Multiplications with additions of integers, each time.
    pub integer: u64,
    /// Multiplications with additions of floats, each time.
    pub float: u64,
    /// Bytes of weights, keys and values that are read, each time.
    pub read: u64,
    /// Seconds that it takes at least, each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What it waits for: `arithmetic` or `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<&'static str>,
}

impl Ceilings {
    /// Seconds that some work takes at least, and what it waits for. Arithmetic and reading overlap.
    #[must_use]
    pub fn floor(&self, work: &Work) -> (f64, &'static str) {
        let arithmetic = work.integer as f64 / self.integer + work.float as f64 / self.float;
        let memory = work.read as f64 / self.read;
        if arithmetic >= memory {
            (arithmetic, "arithmetic")
        } else {
            (memory, "memory")
        }
    }
}

impl Plan {
    /// Compares a footprint with a machine that has cameras of these sizes.
    #[must_use]
    pub fn new(footprint: &Footprint, machine: &Machine, cameras: &[(u32, u32)]) -> Self {
        let frame = |(width, height): &(u32, u32)| u64::from(*width) * u64::from(*height) * 3;
        let cameras = cameras.iter().map(frame).sum::<u64>() * FRAMES;
        let activations = footprint.activations();
        let needed = footprint.peak() + cameras + PROGRAM;
        let stage = |stage: &kinglet_kernels::footprint::Stage| {
            let floor = machine.ceilings.map(|ceilings| ceilings.floor(&stage.work));
            Stage {
                name: stage.name.to_owned(),
                times: stage.times,
                integer: stage.work.integer,
                float: stage.work.float,
                read: stage.work.read,
                seconds: floor.map(|(seconds, _)| seconds),
                bound: floor.map(|(_, bound)| bound),
            }
        };
        let stages: Vec<Stage> = footprint.stages.iter().map(stage).collect();
        let all = |s: &Stage| s.seconds.map(|seconds| seconds * s.times as f64);
        Plan {
            fits: needed <= machine.room,
            room: machine.room,
            needed,
            weights: Classes::from(footprint.weights),
            mapped: Classes::from(footprint.mapped),
            activations,
            cameras,
            program: PROGRAM,
            seconds: stages.iter().map(all).sum(),
            stages,
        }
    }
}

#[cfg(test)]
mod tests {
    use kinglet_kernels::footprint::Stage as Part;

    use super::*;

    fn footprint() -> Footprint {
        let part = |name, times, integer, read, memory| Part {
            name,
            times,
            work: Work {
                integer,
                float: 0,
                read,
                memory,
            },
        };
        Footprint {
            weights: Residency {
                always: 1000,
                seeing: 200,
                drawing: 300,
                never: 40,
            },
            mapped: Residency {
                always: 10,
                seeing: 5,
                drawing: 7,
                never: 1000,
            },
            stages: vec![part("look", 1, 100, 50, 70), part("token", 10, 1, 50, 90)],
        }
    }

    #[test]
    fn everything_is_added_up_and_compared() {
        let machine = |room| Machine {
            room,
            ceilings: None,
        };
        let exact = 1540 + 17 + 90 + 2 * 3 * 19 + PROGRAM;
        let fits = Plan::new(&footprint(), &machine(exact), &[(2, 1)]);
        assert_eq!(fits.needed, exact);
        assert!(fits.fits && fits.seconds.is_none());
        assert!(!Plan::new(&footprint(), &machine(exact - 1), &[(2, 1)]).fits);
        assert!(Plan::new(&footprint(), &machine(exact - 1), &[]).fits);
    }

    #[test]
    fn the_slower_of_arithmetic_and_memory_counts() {
        let ceilings = Ceilings {
            integer: 10.0,
            float: 1.0,
            read: 10.0,
        };
        let machine = Machine {
            room: 0,
            ceilings: Some(ceilings),
        };
        let plan = Plan::new(&footprint(), &machine, &[]);
        assert_eq!(plan.stages[0].bound, Some("arithmetic"));
        assert_eq!(plan.stages[1].bound, Some("memory"));
        assert_eq!(plan.seconds, Some(10.0 + 10.0 * 5.0));
    }
}

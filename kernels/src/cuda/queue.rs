//! What is asked of a processor, beside what was asked before: a sequence that comes again is launched as one graph.
//!
//! A sequence ends where something is read, where something large is written, and where small bytes are written that are
//! not those that were written last (a new point in time, say). While what is asked is the beginning of a sequence that
//! is known it is held back; as soon as it is not, everything is issued at once. So nothing waits that does not repeat.

use crate::error::{KernelError, Result};

/// The longest sequence, and the shortest one that is worth a graph.
const LONGEST: usize = 16_384;
const SHORTEST: usize = 16;
/// The most sequences that are kept, and what they consist of, all together.
const MOST: usize = 16;
const MOST_TASKS: usize = 2 * LONGEST;

/// Something that is asked of a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    /// A kernel, by the driver's handle; each argument where it is aligned for anything, and which of them are numbers
    /// that may be others the next time (the length of a step, say).
    Launch {
        kernel: usize,
        grid: [u32; 3],
        threads: u32,
        arguments: Vec<Vec<u64>>,
        numbers: Vec<usize>,
    },
    /// Small bytes, which come with the launch.
    Put { to: u64, bytes: Vec<u8> },
    /// A copy from place to place.
    Copy { to: u64, from: u64, bytes: usize },
    /// Zeros.
    Zero { at: u64, bytes: usize },
}

impl Task {
    /// Whether a graph with this task does for `other`: bytes and numbers are given to it anew.
    fn stands_for(&self, other: &Task) -> bool {
        match (self, other) {
            (Task::Put { to: a, bytes: x }, Task::Put { to: b, bytes: y }) => {
                a == b && x.len() == y.len()
            }
            (
                Task::Launch {
                    kernel,
                    grid,
                    threads,
                    arguments,
                    numbers,
                },
                Task::Launch {
                    kernel: k,
                    grid: g,
                    threads: t,
                    arguments: others,
                    numbers: n,
                },
            ) => {
                let mut pairs = arguments.iter().zip(others).enumerate();
                (kernel, grid, threads, numbers) == (k, g, t, n)
                    && arguments.len() == others.len()
                    && pairs.all(|(i, (a, b))| a == b || numbers.contains(&i))
            }
            _ => self == other,
        }
    }
}

/// The driver's part.
pub(super) trait Issue {
    /// A sequence that can be launched as one.
    type Graph;
    /// Issues one task.
    fn issue(&self, task: &Task) -> Result<()>;
    /// Makes a graph of a sequence.
    fn graph(&self, tasks: &[Task]) -> Result<Self::Graph>;
    /// Launches it with the bytes and numbers of `tasks`; it has those of `before`.
    fn launch(&self, graph: &Self::Graph, before: &[Task], tasks: &[Task]) -> Result<()>;
}

enum Made<G> {
    /// It came once.
    Not,
    Graph(G),
    /// The driver makes none of it.
    Refused,
}

struct Known<G> {
    tasks: Vec<Task>,
    made: Made<G>,
}

/// What was asked since the last sequence ended.
pub(super) struct Queue<G> {
    /// Whether there are graphs at all.
    graphs: bool,
    tasks: Vec<Task>,
    issued: usize,
    /// Sequences, the one that came last at the end.
    known: Vec<Known<G>>,
    /// Those among them that begin like this one.
    like: Vec<usize>,
    put: Vec<u8>,
}

impl<G> Queue<G> {
    pub(super) fn new(graphs: bool) -> Self {
        Queue {
            graphs,
            tasks: Vec::new(),
            issued: 0,
            known: Vec::new(),
            like: Vec::new(),
            put: Vec::new(),
        }
    }

    /// Takes a task; errors may be those of earlier ones.
    pub(super) fn push(&mut self, task: Task, driver: &impl Issue<Graph = G>) -> Result<()> {
        if !self.graphs {
            return driver.issue(&task);
        }
        let mut result = Ok(());
        if let Task::Put { bytes, .. } = &task
            && *bytes != self.put
        {
            self.put.clone_from(bytes);
            result = self.end(driver);
        }
        let at = self.tasks.len();
        if at == 0 {
            self.like = (0..self.known.len()).collect();
        }
        let known = &self.known;
        self.like.retain(|k| {
            let there = known[*k].tasks.get(at);
            there.is_some_and(|there| there.stands_for(&task))
        });
        self.tasks.push(task);
        if self.like.is_empty() {
            result = result.and(self.catch_up(driver));
        }
        if self.tasks.len() >= LONGEST {
            result = result.and(self.end(driver));
        }
        result
    }

    /// Issues what is held back. One that fails does not keep those of others from being issued.
    fn catch_up(&mut self, driver: &impl Issue<Graph = G>) -> Result<()> {
        let mut result = Ok(());
        for task in self.tasks.iter().skip(self.issued) {
            result = result.and(driver.issue(task));
        }
        self.issued = self.tasks.len();
        result
    }

    /// Ends the sequence: everything is issued after this.
    pub(super) fn end(&mut self, driver: &impl Issue<Graph = G>) -> Result<()> {
        let same = |k: &usize| self.known[*k].tasks.len() == self.tasks.len();
        let again = self.like.iter().copied().find(same);
        let result = match again {
            Some(k) if self.tasks.len() >= SHORTEST => self.launch(k, driver),
            _ => self.catch_up(driver),
        };
        let tasks = std::mem::take(&mut self.tasks);
        self.issued = 0;
        self.like.clear();
        if again.is_none() && tasks.len() >= SHORTEST {
            let made = Made::Not;
            self.known.push(Known { tasks, made });
            let all = |known: &[Known<G>]| known.iter().map(|k| k.tasks.len()).sum::<usize>();
            while self.known.len() > MOST || all(&self.known) > MOST_TASKS {
                self.known.remove(0);
            }
        }
        result
    }

    /// Launches a sequence that came before.
    fn launch(&mut self, k: usize, driver: &impl Issue<Graph = G>) -> Result<()> {
        let mut known = self.known.remove(k);
        if let Made::Not = known.made {
            known.made = match driver.graph(&known.tasks) {
                Ok(graph) => Made::Graph(graph),
                // What is lost is said by the tasks themselves.
                Err(_) => Made::Refused,
            };
        }
        let result = match &known.made {
            Made::Graph(graph) => driver.launch(graph, &known.tasks, &self.tasks),
            Made::Not | Made::Refused => self.catch_up(driver),
        };
        // A graph that does not start is no reason to fail, unless nothing else works either.
        let result = match result {
            Err(KernelError::Gpu(_)) if matches!(known.made, Made::Graph(_)) => {
                known.made = Made::Refused;
                self.catch_up(driver)
            }
            other => other,
        };
        known.tasks.clone_from(&self.tasks);
        self.known.push(known);
        result
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

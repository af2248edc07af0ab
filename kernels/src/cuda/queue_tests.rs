//! What is issued, held back, and launched as a graph.

use std::cell::RefCell;

use super::*;

/// Tells what is asked of it.
#[derive(Default)]
struct Told {
    said: RefCell<Vec<String>>,
    refuses: bool,
    lost: bool,
}

impl Told {
    fn said(&self) -> Vec<String> {
        self.said.take()
    }
}

impl Issue for Told {
    type Graph = usize;

    fn issue(&self, task: &Task) -> Result<()> {
        let word = match task {
            Task::Zero { at, .. } => format!("{at}"),
            Task::Put { bytes, .. } => format!("put {bytes:?}"),
            other => format!("{other:?}"),
        };
        self.said.borrow_mut().push(word);
        Ok(())
    }

    fn graph(&self, tasks: &[Task]) -> Result<usize> {
        if self.refuses {
            return Err(KernelError::Gpu("no".to_owned()));
        }
        Ok(tasks.len())
    }

    fn launch(&self, graph: &usize, before: &[Task], tasks: &[Task]) -> Result<()> {
        assert_eq!((*graph, *graph), (before.len(), tasks.len()));
        if self.lost {
            return Err(KernelError::Lost("gone".to_owned()));
        }
        let puts = tasks.iter().filter_map(|t| match t {
            Task::Put { bytes, .. } => Some(bytes[0]),
            _ => None,
        });
        let puts: Vec<u8> = puts.collect();
        self.said.borrow_mut().push(format!("graph {puts:?}"));
        Ok(())
    }
}

/// A step that begins with a byte.
fn step(queue: &mut Queue<usize>, driver: &Told, byte: u8, first: u64) -> Result<()> {
    queue.push(
        Task::Put {
            to: 1,
            bytes: vec![byte],
        },
        driver,
    )?;
    for at in first..first + 20 {
        queue.push(Task::Zero { at, bytes: 1 }, driver)?;
    }
    // The same bytes once more, and another pass.
    let bytes = vec![byte];
    queue.push(Task::Put { to: 2, bytes }, driver)?;
    queue.push(Task::Zero { at: 9, bytes: 1 }, driver)
}

#[test]
fn what_comes_again_is_one_graph_with_its_own_bytes() {
    let (mut queue, driver) = (Queue::new(true), Told::default());
    step(&mut queue, &driver, 1, 100).unwrap();
    assert_eq!(driver.said().len(), 23, "nothing is held back at first");
    step(&mut queue, &driver, 2, 100).unwrap();
    assert!(driver.said().is_empty(), "it may be the same");
    step(&mut queue, &driver, 3, 100).unwrap();
    assert_eq!(driver.said(), ["graph [2, 2]"]);
    queue.end(&driver).unwrap();
    assert_eq!(driver.said(), ["graph [3, 3]"]);
    queue.end(&driver).unwrap();
    assert!(driver.said().is_empty(), "nothing was asked");
}

#[test]
fn numbers_may_be_others_and_addresses_may_not() {
    let launch = |address: u64, number: u64| Task::Launch {
        kernel: 1,
        grid: [1, 1, 1],
        threads: 32,
        arguments: vec![vec![address], vec![number]],
        numbers: vec![1],
    };
    assert!(launch(5, 1).stands_for(&launch(5, 2)));
    assert!(!launch(5, 1).stands_for(&launch(6, 1)));
    assert!(launch(5, 1) != launch(5, 2));
}

#[test]
fn what_differs_is_issued_in_order() {
    let (mut queue, driver) = (Queue::new(true), Told::default());
    step(&mut queue, &driver, 1, 100).unwrap();
    queue.end(&driver).unwrap();
    driver.said();
    let bytes = vec![2];
    queue.push(Task::Put { to: 1, bytes }, &driver).unwrap();
    for at in [100, 101, 500, 103] {
        queue.push(Task::Zero { at, bytes: 1 }, &driver).unwrap();
    }
    assert_eq!(driver.said(), ["put [2]", "100", "101", "500", "103"]);
    // The beginning of what is known is not all of it.
    queue.end(&driver).unwrap();
    let bytes = vec![3];
    queue.push(Task::Put { to: 1, bytes }, &driver).unwrap();
    queue
        .push(Task::Zero { at: 100, bytes: 1 }, &driver)
        .unwrap();
    assert!(driver.said().is_empty());
    queue.end(&driver).unwrap();
    assert_eq!(driver.said(), ["put [3]", "100"]);
}

#[test]
fn without_graphs_everything_is_issued_at_once() {
    let (mut queue, driver) = (Queue::new(false), Told::default());
    for byte in 0..3 {
        step(&mut queue, &driver, byte, 100).unwrap();
        assert_eq!(driver.said().len(), 23);
    }
    assert!(queue.known.is_empty());
    // A driver that makes none.
    let (mut queue, driver) = (Queue::new(true), Told::default());
    let driver = Told {
        refuses: true,
        ..driver
    };
    for byte in 1..4 {
        step(&mut queue, &driver, byte, 100).unwrap();
        queue.end(&driver).unwrap();
        assert_eq!(driver.said().len(), 23);
    }
}

#[test]
fn what_is_kept_is_bounded_and_a_loss_comes_out() {
    let (mut queue, driver) = (Queue::new(true), Told::default());
    for first in 0..100 {
        step(&mut queue, &driver, first as u8, 1000 * first).unwrap();
    }
    assert!(queue.known.len() <= MOST);
    for at in 0..5 * LONGEST as u64 {
        queue.push(Task::Zero { at, bytes: 1 }, &driver).unwrap();
    }
    let kept: usize = queue.known.iter().map(|k| k.tasks.len()).sum();
    assert!(kept <= MOST_TASKS, "{kept}");
    driver.said();
    let lost = Told {
        lost: true,
        ..driver
    };
    let mut queue = Queue::new(true);
    step(&mut queue, &lost, 1, 7).unwrap();
    step(&mut queue, &lost, 2, 7).unwrap();
    let said = queue.end(&lost);
    assert!(matches!(said, Err(KernelError::Lost(_))), "{said:?}");
}

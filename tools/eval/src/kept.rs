//! Results that are kept on disk as they come, so that a run that was interrupted goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Result, data_error};
use crate::pool::on_all_cores;

/// The result of every number: those of a file that was made for the same `task`, the others by `work`, one on each
/// core, added to the file. A file of another task begins anew.
///
/// # Errors
/// [`crate::EvalError`] if the file cannot be used or some work cannot be done.
pub fn results<T: Serialize + DeserializeOwned + Send>(
    what: &str,
    file: &Path,
    task: &Value,
    numbers: &[usize],
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<BTreeMap<usize, T>> {
    let mut found = read::<T>(file, task).unwrap_or_default();
    let mut text = format!("{task}\n");
    for one in &found {
        text += &line(file, &one)?;
    }
    // Whole lines again: the last one may have been cut off.
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| data_error(folder, e))?;
    }
    std::fs::write(file, text).map_err(|e| data_error(file, e))?;
    let opened = OpenOptions::new().append(true).open(file);
    let kept = Mutex::new(opened.map_err(|e| data_error(file, e))?);
    let missing: Vec<usize> = numbers
        .iter()
        .copied()
        .filter(|i| !found.contains_key(i))
        .collect();
    let new = on_all_cores(what, &missing, |i| {
        let one = (i, work(i)?);
        let text = line(file, &one)?;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.write_all(text.as_bytes())
            .map_err(|e| data_error(file, e))?;
        Ok(one)
    })?;
    found.extend(new);
    let wanted: BTreeSet<&usize> = numbers.iter().collect();
    found.retain(|i, _| wanted.contains(i));
    Ok(found)
}

fn line(file: &Path, one: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(one).map_err(|e| data_error(file, e))?;
    Ok(text + "\n")
}

/// What a file of this task holds; none if it is of another one.
fn read<T: DeserializeOwned>(file: &Path, task: &Value) -> Option<BTreeMap<usize, T>> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    let same = serde_json::from_str::<Value>(lines.next()?).ok()? == *task;
    let whole = lines.map_while(|line| serde_json::from_str(line).ok());
    same.then(|| whole.collect())
}

/// A file or directory as it is now: another one of this name is another task.
pub fn identity(path: &Path) -> Value {
    let about = std::fs::metadata(path).ok();
    let changed = about.as_ref().and_then(|a| a.modified().ok());
    let changed = changed.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    serde_json::json!([path, about.map(|a| a.len()), changed.map(|t| t.as_secs())])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_missing_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.jsonl");
        let run = |task: &Value, numbers: &[usize]| {
            let done = Mutex::new(Vec::new());
            let all = results("a test", &file, task, numbers, |i| {
                done.lock().unwrap().push(i);
                Ok(10 * i)
            });
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            (all.unwrap(), done)
        };
        let (one, other) = (json!({"steps": 4}), json!({"steps": 8}));
        assert_eq!(run(&one, &[0, 1]).1, [0, 1]);
        // As if the program had been stopped in the middle of a line.
        let cut = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, &cut[..cut.len() - 2]).unwrap();
        let (all, done) = run(&one, &[0, 1, 2]);
        assert_eq!(all, BTreeMap::from([(0, 0), (1, 10), (2, 20)]));
        assert!(done.len() == 2 && done.contains(&2), "{done:?}");
        let (all, done) = run(&one, &[1]);
        assert_eq!((all, done), (BTreeMap::from([(1, 10)]), vec![]));
        assert_eq!(run(&other, &[0]).1, [0]);
    }
}

//! Splitting a feed-forward network into experts (docs/model.md, 4.3).

use crate::error::{QuantError, Result};

/// Which neurons of a dense network belong to which expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Neurons of the expert that every token uses, the most important first.
    pub shared: Vec<usize>,
    /// Neurons of each of the other experts, in the order of their importance.
    pub experts: Vec<Vec<usize>>,
}

/// Splits neurons by their importance: the most important go to the shared experts, the rest is
/// laid out in rows of `experts`, every other row reversed (a snake), and an expert takes a column.
///
/// # Errors
/// [`QuantError::Recipe`] if there are no experts, a score is not finite, or the neurons do not come
/// out even.
pub fn partition(scores: &[f32], experts: usize, shared: usize) -> Result<Partition> {
    let refuse = |text: String| Err(QuantError::Recipe(text));
    if experts == 0 {
        return refuse("a split into 0 experts".to_owned());
    }
    if let Some(neuron) = scores.iter().position(|s| !s.is_finite()) {
        return refuse(format!(
            "the importance of neuron {neuron} is {}",
            scores[neuron]
        ));
    }
    let common = scores.len() * shared / (shared + experts);
    let rest = scores.len() - common;
    if !rest.is_multiple_of(experts) {
        return refuse(format!(
            "{rest} neurons cannot be split evenly among {experts} experts"
        ));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A stable sort: of equals the first neuron comes first.
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (most, rest) = order.split_at(common);
    let mut split = vec![Vec::new(); experts];
    for (i, row) in rest.chunks(experts).enumerate() {
        for (column, neuron) in row.iter().enumerate() {
            let expert = if i % 2 == 0 {
                column
            } else {
                experts - 1 - column
            };
            split[expert].push(*neuron);
        }
    }
    Ok(Partition {
        shared: most.to_vec(),
        experts: split,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snake_gives_every_expert_its_share_of_importance() {
        let scores = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        let split = partition(&scores, 2, 0).unwrap();
        assert_eq!(split.experts, [[0, 3, 4, 7], [1, 2, 5, 6]]);
        let split = partition(&scores, 2, 2).unwrap();
        assert_eq!(split.shared, [0, 1, 2, 3]);
        assert_eq!(split.experts, [[4, 7], [5, 6]]);
    }

    #[test]
    fn uneven_splits_and_scores_that_are_no_numbers_are_refused() {
        assert!(partition(&[1.0; 7], 2, 0).is_err());
        assert!(partition(&[1.0; 8], 0, 1).is_err());
        assert!(partition(&[1.0, f32::NAN], 2, 0).is_err());
    }
}

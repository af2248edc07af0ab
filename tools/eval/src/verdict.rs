//! Whether a drawing is what was asked for, from what was seen in it.

use serde::{Deserialize, Serialize};

use crate::places::Thing;
use crate::prompts::Wanted;

/// Pixels by which one thing must lie to the left of or above another.
const CLEARLY: f32 = 6.0;
/// Pixels by which a thing may have moved that an edit should have left alone.
const STAYED: f32 = 10.0;
/// A longest side in pixels between what tools/train/world.py calls small and large (up to 34 and from 58 on).
const BETWEEN: f32 = 46.0;

/// What is to be said of a drawing. Questions that its prompt does not ask have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every kind that was asked for is there, and no other.
    pub objects: bool,
    /// As many of each.
    pub count: bool,
    /// They stand as was asked; none, too, if places do not show it (behind, in front of).
    pub relation: Option<bool>,
    /// The border has the colour.
    pub background: Option<bool>,
    /// It is as large as was asked.
    pub size: Option<bool>,
    /// What should stay is where it was.
    pub kept: Option<bool>,
}

impl Verdict {
    /// What was seen, with this colour at the border, against what was asked for.
    pub fn of(wanted: &Wanted, things: &[Thing], colour: &str) -> Self {
        let mut asked: Vec<Option<&str>> = wanted.things.iter().map(|name| Some(&**name)).collect();
        let mut seen: Vec<Option<&str>> =
            things.iter().map(|thing| thing.name.as_deref()).collect();
        asked.sort_unstable();
        seen.sort_unstable();
        let count = asked == seen;
        asked.dedup();
        seen.dedup();
        let relation = wanted.relation.as_ref();
        let size = wanted.size.as_deref();
        Verdict {
            objects: asked == seen,
            count,
            relation: relation.and_then(|relation| stands(relation, things)),
            background: wanted.background.as_ref().map(|wanted| wanted == colour),
            size: size.map(|size| !things.is_empty() && things.iter().all(|t| is_of_size(t, size))),
            kept: wanted
                .picture
                .is_some()
                .then(|| stayed(&wanted.kept, things)),
        }
    }

    /// Everything that was asked for.
    pub fn all(self) -> bool {
        let more = [self.relation, self.background, self.size, self.kept];
        self.objects && self.count && !more.contains(&Some(false))
    }

    /// What the category is named for, which is what GenEval counts; of an edit, everything.
    pub fn named(self, category: &str) -> bool {
        let holds = |answer: Option<bool>| answer != Some(false);
        match category {
            "single object" => self.objects,
            "two object" | "counting" => self.objects && self.count,
            "colors" => self.objects && holds(self.background),
            "position" => self.objects && holds(self.relation),
            "attribute" => self.objects && holds(self.size),
            _ => self.all(),
        }
    }
}

fn is_of_size(thing: &Thing, size: &str) -> bool {
    match size {
        "small" => thing.size < BETWEEN,
        "large" => thing.size > BETWEEN,
        _ => false,
    }
}

/// Whether the first thing stands so to the second one.
fn stands((first, relation, second): &(String, String, String), things: &[Thing]) -> Option<bool> {
    let place = |name: &str| {
        let found = things
            .iter()
            .find(|thing| thing.name.as_deref() == Some(name))?;
        Some((found.x, found.y))
    };
    let right = |test: fn(f32, f32) -> bool| match (place(first), place(second)) {
        (Some((x, y)), Some((to_x, to_y))) => test(x - to_x, y - to_y),
        _ => false,
    };
    Some(match &relation[..] {
        "left of" => right(|x, _| x < -CLEARLY),
        "right of" => right(|x, _| x > CLEARLY),
        "above" => right(|_, y| y < -CLEARLY),
        "below" => right(|_, y| y > CLEARLY),
        // Nearly over each other, too.
        "on" => right(|x, y| y < -CLEARLY && x.abs() < 2.0 * CLEARLY),
        _ => return None,
    })
}

/// Whether each of these is still where it was.
fn stayed(kept: &[(String, f32, f32)], things: &[Thing]) -> bool {
    kept.iter().all(|(name, x, y)| {
        let near = |thing: &&Thing| (thing.x - x).abs() < STAYED && (thing.y - y).abs() < STAYED;
        let mut there = things.iter().filter(near);
        there.any(|thing| thing.name.as_deref() == Some(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(name: &str, x: f32, y: f32) -> Thing {
        Thing {
            name: (name != "junk").then(|| name.to_owned()),
            x,
            y,
            size: 30.0,
        }
    }

    fn wanted(things: &[&str]) -> Wanted {
        Wanted {
            category: "two object".to_owned(),
            things: things.iter().map(|&name| name.to_owned()).collect(),
            background: Some("blue".to_owned()),
            ..Wanted::default()
        }
    }

    #[test]
    fn kinds_numbers_and_colours_are_judged_one_by_one() {
        let asked = wanted(&["cat", "cat", "dog"]);
        let (cat, dog) = (thing("cat", 20.0, 20.0), thing("dog", 80.0, 20.0));
        let all = Verdict::of(&asked, &[dog.clone(), cat.clone(), cat.clone()], "blue");
        assert!(all.all() && all.objects && all.count);
        let fewer = Verdict::of(&asked, &[cat.clone(), dog.clone()], "blue");
        assert!(fewer.objects && !fewer.count && !fewer.all());
        assert!(fewer.named("single object") && !fewer.named("counting"));
        let junk = [cat.clone(), cat, dog, thing("junk", 0.0, 0.0)];
        let junk = Verdict::of(&asked, &junk, "red");
        assert!(!junk.objects && !junk.count && junk.background == Some(false));
    }

    #[test]
    fn a_relation_is_one_of_places() {
        let mut asked = wanted(&["cat", "dog"]);
        let things = [thing("cat", 20.0, 50.0), thing("dog", 80.0, 54.0)];
        for (relation, right) in [
            ("left of", Some(true)),
            ("right of", Some(false)),
            ("above", Some(false)),
            ("on", Some(false)),
            ("behind", None),
        ] {
            asked.relation = Some(("cat".to_owned(), relation.to_owned(), "dog".to_owned()));
            let verdict = Verdict::of(&asked, &things, "blue");
            assert_eq!(verdict.relation, right, "{relation}");
            assert_eq!(verdict.named("position"), right != Some(false));
        }
        asked.relation = Some(("fox".to_owned(), "left of".to_owned(), "dog".to_owned()));
        assert_eq!(Verdict::of(&asked, &things, "blue").relation, Some(false));
    }

    #[test]
    fn an_attribute_is_a_size() {
        let mut asked = wanted(&["cat"]);
        asked.size = Some("small".to_owned());
        let small = [thing("cat", 20.0, 50.0)];
        assert!(Verdict::of(&asked, &small, "red").named("attribute"));
        asked.size = Some("large".to_owned());
        assert!(!Verdict::of(&asked, &small, "red").named("attribute"));
        assert_eq!(Verdict::of(&asked, &[], "red").size, Some(false));
    }

    #[test]
    fn an_edit_leaves_the_rest_where_it_was() {
        let mut asked = wanted(&["cat", "dog"]);
        asked.picture = Some("0.png".to_owned());
        asked.kept = vec![("cat".to_owned(), 20.0, 20.0)];
        let at = |x| [thing("cat", x, 24.0), thing("dog", 80.0, 80.0)];
        assert_eq!(Verdict::of(&asked, &at(25.0), "blue").kept, Some(true));
        assert_eq!(Verdict::of(&asked, &at(40.0), "blue").kept, Some(false));
        assert!(!Verdict::of(&asked, &at(40.0), "blue").named("edit: replaced"));
    }
}

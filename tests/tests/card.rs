//! The bundled model reaches what its card (docs/tiny.md) says, on a few scenes and prompts of the same kind.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use kinglet_eval::drawings::{self, Easel};
use kinglet_eval::judges::Judges;
use kinglet_eval::questions::{self, Marks};
use kinglet_eval::way::Way;
use kinglet_eval::{Share, data, prompts};
use kinglet_model::{Model, Source};
use kinglet_tests::root;

/// Shares of right answers on 1,000 scenes and more, in percent.
const SEEING: [(&str, f64); 8] = [
    ("name", 98.3),
    ("list", 77.5),
    ("count", 97.0),
    ("count of", 96.4),
    ("is there", 99.2),
    ("relation", 98.4),
    ("background", 99.7),
    ("changed", 63.8),
];

/// Shares of drawings that show what their category is named for.
const DRAWING: [(&str, f64); 6] = [
    ("single object", 88.0),
    ("two object", 80.0),
    ("counting", 68.0),
    ("colors", 89.1),
    ("position", 62.9),
    ("edit: remove", 87.2),
];

fn bundled() -> PathBuf {
    root().join("runtime/assets/kinglet-tiny.gguf")
}

fn percent(share: f64) -> Share {
    Share {
        right: (share * 10.0) as usize,
        of: 1000,
    }
}

#[test]
fn seeing_reaches_the_card() {
    let scenes = data("scenes");
    let asked = questions::scenes(&scenes).unwrap();
    let options = questions::Options {
        model: bundled(),
        scenes,
        most: usize::MAX,
    };
    let marks = Marks::of(&asked, &questions::run(&options, &asked).unwrap());
    println!("card: {}", marks.table());
    let plain = &marks.0["plain"];
    for (ability, card) in SEEING {
        let share = plain[ability];
        assert!(share.of >= 15, "{ability}: {share}");
        assert!(share.reaches(percent(card)), "{ability}: {share}");
    }
}

#[test]
fn drawing_reaches_the_card() {
    let scenes = data("scenes");
    let folder = tempfile::tempdir().unwrap();
    let wanted = prompts::wanted(&scenes).unwrap();
    let judges = ["a", "b"].map(|name| data(&format!("judges/{name}.safetensors")));
    let file = bundled();
    let easel = Easel {
        model: Model::on_cpu(&Source::open(&file).unwrap()).unwrap(),
        file: &file,
        way: &Way::default(),
        scenes: &scenes,
        folder: folder.path().to_owned(),
        originals: None,
    };
    let numbers: Vec<usize> = (0..wanted.len()).collect();
    let judges = Judges::open(&judges).unwrap();
    let drawn = easel.draw("card", &wanted, &numbers, &judges).unwrap();
    let marks = drawings::marks(&wanted, &drawn);
    println!("card: {}", drawings::table(&marks));
    for (category, card) in DRAWING {
        let share = marks[category].named;
        assert!(share.reaches(percent(card)), "{category}: {share}");
    }
}

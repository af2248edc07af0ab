//! The bundled model reaches what its card says, through the program as it is shipped.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_eval::{Program, Share, draw, see};
use kinglet_tests::program;

#[test]
fn seeing_reaches_the_card() {
    let marks = see::run(&Program::new(&program(), None)).unwrap();
    println!("card: {marks:?}");
    // docs/tiny.md, measured by a plain implementation on the same 60 scenes.
    assert!(
        marks.naming.reaches(Share { right: 43, of: 43 }),
        "naming {}",
        marks.naming
    );
    assert!(
        marks.counting.reaches(Share { right: 48, of: 60 }),
        "counting {}",
        marks.counting
    );
    assert!(
        marks.background.reaches(Share { right: 60, of: 60 }),
        "background {}",
        marks.background
    );
    assert!(
        marks.regions.reaches(Share { right: 40, of: 42 }),
        "regions {}",
        marks.regions
    );
    // A model that always says the same must not pass.
    assert!(marks.naming.of == 43 && marks.naming.right >= 41);
}

#[test]
fn drawing_reaches_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let marks = draw::run(
        &Program::new(&program(), None),
        folder.path(),
        draw::objects(),
        &[],
    )
    .unwrap();
    println!("card: {marks:?}");
    assert!(
        marks.strict.reaches(Share { right: 53, of: 68 }),
        "strict {}",
        marks.strict
    );
    assert!(
        marks.plain.reaches(Share { right: 61, of: 68 }),
        "plain {}",
        marks.plain
    );
    assert!(
        marks.background.reaches(Share { right: 68, of: 68 }),
        "background {}",
        marks.background
    );
}

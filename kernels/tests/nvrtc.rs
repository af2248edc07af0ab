//! Every kernel compiles for every chip, by the real compiler; no processor is needed. tools/check brings the compiler
//! and looks at what it has made, in the folder `KINGLET_CUBINS`.
#![cfg(feature = "cuda")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_kernels::cuda::{driver, source};

#[test]
#[ignore = "needs NVIDIA's compiler: tools/check brings it"]
fn the_kernels_compile_for_every_chip() {
    let folder = std::env::var_os("KINGLET_CUBINS").expect("a folder for what is compiled");
    for (major, minor) in [(7, 2), (8, 0), (8, 7), (9, 0)] {
        let start = std::time::Instant::now();
        let compiled = driver::compile(&source::whole(), (major, minor)).unwrap();
        println!(
            "sm_{major}{minor}: {} bytes, {:.1?}",
            compiled.len(),
            start.elapsed()
        );
        let file = std::path::Path::new(&folder).join(format!("sm_{major}{minor}.cubin"));
        std::fs::write(file, compiled).unwrap();
    }
}

#[test]
#[ignore = "needs NVIDIA's compiler: tools/check brings it"]
fn what_does_not_compile_is_said() {
    let said = driver::compile("this is no kernel", (8, 7))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("does not compile the kernels for sm_87"),
        "{said}"
    );
    let said = driver::compile(&source::whole(), (4, 2))
        .unwrap_err()
        .to_string();
    assert!(said.contains("sm_42"), "{said}");
}

/// On a machine with a driver this finds its processors.
#[test]
fn a_machine_without_a_driver_says_so() {
    match driver::find() {
        Ok(found) => println!("{found:?}"),
        Err(e) => {
            let said = e.to_string();
            println!("{said}");
            assert!(
                said.contains("libcuda.so is not found") || said.contains("driver"),
                "{said}"
            );
        }
    }
}

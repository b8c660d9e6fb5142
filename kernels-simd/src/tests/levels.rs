//! The choice of a level.

use std::{env, process::Command};

use crate::{Kernels, Level, LevelError};

#[test]
fn scalar_comes_first_and_the_best_last() {
    let names: Vec<_> = Kernels::available().map(Kernels::name).collect();
    assert_eq!(names[0], "scalar");
    assert_eq!(names[names.len() - 1], Kernels::best().name());
    for kernels in Kernels::available() {
        assert_eq!(
            Kernels::by_name(kernels.name()).unwrap().level(),
            kernels.level()
        );
    }
}

/// Levels that are not tested are told; `CHASKI_EXPECT_SIMD=avx2,...` makes that a failure.
#[test]
fn expected_levels_are_here() {
    let expected = env::var("CHASKI_EXPECT_SIMD").unwrap_or_default();
    for name in expected.split(',').filter(|name| !name.is_empty()) {
        Kernels::by_name(name).unwrap();
    }
    for level in Level::ALL {
        if Kernels::of(level) == Err(LevelError::Unavailable { level }) {
            println!("level {level} is not tested: this CPU does not have it");
        }
    }
}

impl PartialEq for Kernels {
    fn eq(&self, other: &Self) -> bool {
        self.level == other.level
    }
}

#[test]
fn an_unknown_level_is_an_error_that_names_the_available_ones() {
    let err = Kernels::by_name("avx\n9000").unwrap_err();
    assert_eq!(
        err,
        LevelError::Unknown {
            name: "avx\n9000".to_owned()
        }
    );
    let message = err.to_string();
    assert!(message.starts_with("unknown SIMD level `avx\\n9000`, available here: scalar"));
    let message = LevelError::Unavailable { level: Level::Avx2 }.to_string();
    assert!(
        message.starts_with("this CPU does not have SIMD level `avx2`, available here: scalar")
    );
    for kernels in Kernels::available() {
        assert!(message.contains(kernels.name()), "{message}");
    }
}

/// What a child process of this test binary prints of its choice under `CHASKI_SIMD=value`.
fn choice(value: Option<&str>) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([
        "--exact",
        "tests::levels::prints_its_choice",
        "--nocapture",
        "--ignored",
    ]);
    match value {
        Some(value) => child.env("CHASKI_SIMD", value),
        None => child.env_remove("CHASKI_SIMD"),
    };
    let out = String::from_utf8(child.output().unwrap().stdout).unwrap();
    let after = out
        .split_once("choice: <")
        .expect("the child printed its choice")
        .1;
    after.split_once('>').unwrap().0.to_owned()
}

#[test]
#[ignore = "the child of the test below"]
fn prints_its_choice() {
    match Kernels::from_env() {
        Ok(kernels) => println!("choice: <{}>", kernels.name()),
        Err(err) => println!("choice: <{err}>"),
    }
}

#[test]
fn the_environment_chooses_the_level() {
    let probe = Command::new(env::current_exe().unwrap())
        .arg("--list")
        .output();
    if !probe.is_ok_and(|out| out.status.success()) {
        println!("skipped: this binary cannot start itself (an emulator without binfmt?)");
        return;
    }
    assert_eq!(choice(None), Kernels::best().name());
    assert_eq!(choice(Some("")), Kernels::best().name());
    for kernels in Kernels::available() {
        assert_eq!(choice(Some(kernels.name())), kernels.name());
    }
    let unknown = LevelError::Unknown {
        name: "AVX2".to_owned(),
    };
    assert_eq!(choice(Some("AVX2")), unknown.to_string());
}

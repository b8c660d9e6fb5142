//! The choice of a level.

use std::{env, ffi::OsStr};

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

#[test]
fn the_environment_chooses_the_level() {
    let choose = |value: &str| Kernels::choose(Some(OsStr::new(value)));
    assert_eq!(Kernels::choose(None), Ok(Kernels::best()));
    assert_eq!(choose(""), Ok(Kernels::best()));
    for kernels in Kernels::available() {
        assert_eq!(choose(kernels.name()), Ok(kernels));
    }
    for name in ["AVX2", "scalar ", "sse9"] {
        assert_eq!(
            choose(name),
            Err(LevelError::Unknown {
                name: name.to_owned()
            })
        );
    }
    // The scripts run the tests with several values.
    assert_eq!(
        Kernels::from_env(),
        Kernels::choose(env::var_os("CHASKI_SIMD").as_deref())
    );
}

//! One case of a seeded test, and how to repeat it.

/// Names the case of a seeded test for [`assert_close`](crate::testing::assert_close): the package and test it runs in,
/// the seed, and what it is about.
///
/// ```
/// let (q, k) = (3, 5);
/// let case = lacuna_reference::case!(17, "q {q}, k {k}");
/// assert!(case.to_string().contains("LACUNA_SEED=17 cargo test -p lacuna-reference"));
/// ```
#[macro_export]
macro_rules! case {
    ($seed:expr) => {
        $crate::testing::Case::new(env!("CARGO_PKG_NAME"), $seed, String::new())
    };
    ($seed:expr, $($about:tt)+) => {
        $crate::testing::Case::new(env!("CARGO_PKG_NAME"), $seed, format!($($about)+))
    };
}

/// A case of a seeded test; displays as the command that repeats it and a description. Made by [`case!`](crate::case).
#[derive(Debug, Clone)]
pub struct Case {
    package: &'static str,
    test: String,
    seed: u64,
    about: String,
}

impl Case {
    /// For the running test of `package`; the test harness names the thread after the test.
    pub fn new(package: &'static str, seed: u64, about: String) -> Self {
        let test = std::thread::current().name().filter(|&name| name != "main").unwrap_or("").to_owned();
        Self { package, test, seed, about }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LACUNA_SEED={} cargo test -p {} {}", self.seed, self.package, self.test)?;
        if self.about.is_empty() { Ok(()) } else { write!(f, "\n  case: {}", self.about) }
    }
}

/// The seeds of a test: `0..count`, or the one in the environment variable `LACUNA_SEED`.
///
/// # Panics
/// When `LACUNA_SEED` is set and is not a number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("LACUNA_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("LACUNA_SEED must be a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

//! The words in which the kernels of a row tell one another what they found.

/// Words of a row.
pub const WORDS: usize = 8;

/// Before the first call: nothing has come or is listed, and all tokens are kept.
pub const START: [u32; WORDS] = [0, 0, 0, 0, 0, 0, 0, u32::MAX];

#[cfg(target_arch = "nvptx64")]
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {$(
        $(#[$doc])*
        pub(super) const $name: u64 = 4 * $word;
    )*};
}

#[cfg(target_arch = "nvptx64")]
words! {
    /// CTAs that have come.
    TICKET = 0;
    /// Places of the list that are taken.
    TAKEN = 1;
    /// The last level of which tokens may be kept.
    LEVEL = 2;
    /// How many tokens are on this level and above.
    SURVIVORS = 3;
    /// The weight of the row, in two halves.
    TOTAL = 4;
    /// Tokens with greater keys are kept,
    THRESHOLD = 6;
    /// and with this key those up to this index.
    LAST_TIE = 7;
}

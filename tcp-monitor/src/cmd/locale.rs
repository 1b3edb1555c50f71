//! The character set of the locale, from the environment (locale(7)).

use std::env;
use std::ffi::OsStr;

/// Whether the locale is C or POSIX, so that output is plain ASCII. Without any locale it is not.
pub(super) fn is_ascii() -> bool {
    is_c(VARIABLES.map(env::var_os).each_ref().map(Option::as_deref))
}

/// Of the variables that set the locale of characters, the first that is set and not empty counts.
fn is_c(variables: [Option<&OsStr>; 3]) -> bool {
    let locale = variables.into_iter().flatten().find(|value| !value.is_empty());
    locale.is_some_and(|locale| locale == "C" || locale == "POSIX")
}

/// The strongest first.
const VARIABLES: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::is_c;

    #[test]
    fn the_first_variable_that_is_set_counts() {
        for (variables, expected) in [
            ([None, None, None], false),
            ([Some("C"), Some("en_US.UTF-8"), Some("en_US.UTF-8")], true),
            ([Some("POSIX"), None, None], true),
            ([Some("C.UTF-8"), Some("C"), Some("C")], false),
            ([Some(""), Some("C"), Some("en_US.UTF-8")], true),
            ([None, None, Some("C")], true),
            ([None, Some("en_US.UTF-8"), Some("C")], false),
        ] {
            assert_eq!(is_c(variables.map(|value| value.map(OsStr::new))), expected, "{variables:?}");
        }
    }
}

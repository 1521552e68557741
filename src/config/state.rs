//! Where state lives when the configuration does not say it.

use std::path::PathBuf;

use super::expand::Environment;

/// `$STATE_DIRECTORY` (set by systemd), else `$XDG_STATE_HOME/nexus-gateway`, else `~/.local/state/nexus-gateway`.
pub(super) fn default_directory(environment: Environment<'_>) -> Option<PathBuf> {
    let path = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given_by_systemd(environment)
        // The XDG specification says to ignore relative paths.
        .or_else(|| path("XDG_STATE_HOME").map(|state| state.join("nexus-gateway")))
        .or_else(|| path("HOME").map(|home| home.join(".local/state/nexus-gateway")))
}

/// A unit with several state directories gets them all, separated by colons; the first one is its main one.
fn given_by_systemd(environment: Environment<'_>) -> Option<PathBuf> {
    let directories = environment("STATE_DIRECTORY")?;
    directories.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_set_wins() {
        for (variables, expected) in [
            (vec![("STATE_DIRECTORY", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")], Some("/s")),
            (vec![("STATE_DIRECTORY", "/s:/t")], Some("/s")),
            (vec![("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")], Some("/x/nexus-gateway")),
            (vec![("XDG_STATE_HOME", "x"), ("HOME", "/h")], Some("/h/.local/state/nexus-gateway")),
            (vec![("HOME", "")], None),
            (vec![], None),
        ] {
            let look_up = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(default_directory(&look_up), expected.map(PathBuf::from), "{variables:?}");
        }
    }
}

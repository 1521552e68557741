//! Values of `tls`.

use std::path::{Path, PathBuf};

use super::Kind;
use crate::tls;

/// A file that is read with the configuration.
pub(in crate::config) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    const EXPECTED: &'static str = "a file's absolute path";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<PathBuf, String> {
        if text.contains("-----BEGIN") {
            Err("is a file's content; write the file's path, without `${file:` and `}`".into())
        } else if Path::new(text).is_absolute() && !text.contains('\0') {
            Ok(text.into())
        } else {
            Err("is not a file's absolute path; write `/PATH/TO/FILE`".into())
        }
    }

    fn pattern() -> &'static str {
        "^/"
    }
}

/// The least version of TLS; the value is whether it is 1.3.
pub(in crate::config) struct MinVersion;

impl Kind for MinVersion {
    type Value = bool;

    const EXPECTED: &'static str = "`\"1.2\"` or `\"1.3\"`, in quotes,";

    fn from_text(text: &str) -> Result<bool, String> {
        match text {
            "1.2" => Ok(false),
            "1.3" => Ok(true),
            _ => Err("is no version that is taken; write `\"1.3\"`, or `\"1.2\"` to take TLS 1.2 as well".into()),
        }
    }

    fn pattern() -> &'static str {
        r"^1\.[23]$"
    }
}

/// Whom a certificate can be for.
pub(in crate::config) struct TlsName;

impl Kind for TlsName {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a host's name or address";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        if tls::is_server_name(text) {
            Ok(text.into())
        } else {
            Err("is no name that a certificate can be for; write a host's name or IP address, without a port".into())
        }
    }
}

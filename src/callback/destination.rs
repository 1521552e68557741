//! Where completions may be sent.

/// An entry of `callbacks.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed;

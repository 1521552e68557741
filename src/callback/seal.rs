//! Seals.

/// A key that seals and opens.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// How seals name it.
    pub id: Box<str>,
    secret: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// A key of this name.
    pub fn new(id: &str, secret: [u8; 32]) -> Self {
        Self { id: id.into(), secret }
    }
}

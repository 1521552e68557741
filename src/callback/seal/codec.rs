//! Texts and numbers as few bytes: a number in groups of seven bits, the lowest first; a text after its length.

/// Writes fields one after the other.
#[derive(Default)]
pub(in crate::callback) struct Writer(Vec<u8>);

impl Writer {
    pub(in crate::callback) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    pub(in crate::callback) fn text(&mut self, text: &str) {
        self.blob(text.as_bytes());
    }

    pub(in crate::callback) fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(in crate::callback) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::callback) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads fields in the order in which they were written.
pub(in crate::callback) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(in crate::callback) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next number; none where the bytes end before it does, or it has more than 64 bits.
    pub(in crate::callback) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let group = u64::from(byte & 0x7f);
            if group.leading_zeros() < shift {
                return None;
            }
            number |= group << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// The next text; none where the bytes end before it does, or are not UTF-8.
    pub(in crate::callback) fn text(&mut self) -> Option<String> {
        std::str::from_utf8(self.blob()?).ok().map(str::to_owned)
    }

    /// The next bytes; none where there are not as many as they should be.
    pub(in crate::callback) fn blob(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Whether everything was read.
    pub(in crate::callback) fn end(&self) -> bool {
        self.0.is_empty()
    }
}

//! Frames of HTTP/2 as bytes, good ones and others.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame of this kind (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field as HPACK that no table knows (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0], &*string(name), &*string(value)].concat()
}

/// Without Huffman's code (RFC 7541 §5.2).
fn string(text: &str) -> Vec<u8> {
    let mut bytes = match text.len() {
        length @ ..127 => vec![u8::try_from(length).expect("it is small")],
        length => vec![127, u8::try_from(length - 127).expect("a text of less than 255 bytes")],
    };
    assert!(bytes.len() == 1 || bytes[1] < 128, "a text of less than 255 bytes");
    bytes.extend(text.as_bytes());
    bytes
}

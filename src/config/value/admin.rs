//! Values of `admin`.

use super::Kind;
use crate::admin::AdminToken as Token;

/// What opens the admin port. Messages never repeat any of it.
pub(in crate::config) struct AdminToken;

impl Kind for AdminToken {
    type Value = Token;

    const EXPECTED: &'static str = "a token";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Token, String> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err("has characters that a header cannot carry; write letters, digits and signs of ASCII".into())
        } else if !(16..=512).contains(&text.len()) {
            Err(format!("has {} characters; write 16 to 512, such as `openssl rand -hex 32` makes", text.len()))
        } else {
            Ok(Token::new(text))
        }
    }

    fn pattern() -> &'static str {
        "^[!-~]{16,512}$"
    }
}

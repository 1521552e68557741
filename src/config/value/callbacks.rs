//! Values of `callbacks`.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Kind;
use crate::callback::seal::Key;
use crate::nexus::BaseUrl;

/// Characters of a public URL: a seal takes several hundred of the 1000 that Temporal takes in all.
const MAX_PUBLIC_URL: usize = 500;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How the clusters of handlers reach this gateway.
pub(in crate::config) struct PublicUrl;

impl Kind for PublicUrl {
    type Value = BaseUrl;

    const EXPECTED: &'static str = "a URL such as `http://gateway.example:7280`";

    fn from_text(text: &str) -> Result<BaseUrl, String> {
        let url = BaseUrl::parse(text).map_err(|error| format!("is refused: {error}"))?;
        let length = url.to_string().len();
        if length > MAX_PUBLIC_URL {
            let room = "of the 1000 that Temporal takes in a callback too few are left";
            return Err(format!("has {length} characters: {room}; write at most {MAX_PUBLIC_URL}"));
        }
        Ok(url)
    }

    fn pattern() -> &'static str {
        "^https?://"
    }
}

/// What a key is called.
pub(in crate::config) struct KeyId;

impl Kind for KeyId {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a key's id";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        let wrong = || "is not a key's id; write 1 to 64 letters, digits, `.`, `-` and `_`".into();
        Key::is_id(text).then(|| text.into()).ok_or_else(wrong)
    }

    fn pattern() -> &'static str {
        r"^[a-zA-Z0-9._\-]{1,64}$"
    }
}

/// What a key consists of: 32 bytes in base64 of either alphabet. Messages never repeat any of it.
pub(in crate::config) struct KeySecret;

impl Kind for KeySecret {
    type Value = [u8; 32];

    const EXPECTED: &'static str = "a key's secret";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<[u8; 32], String> {
        let decoded = BASE64.decode(text.replace('+', "-").replace('/', "_"));
        let bytes = decoded
            .map_err(|_| "is not base64; write 32 random bytes in it, as `nexus-gateway keys new` makes them")?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| {
            let plural = if length == 1 { "" } else { "s" };
            format!("is {length} byte{plural} in base64; write exactly 32, as `nexus-gateway keys new` makes them")
        })
    }

    fn pattern() -> &'static str {
        r"^[a-zA-Z0-9+/_\-]{43}=?$"
    }
}

/// Where completions may be sent; read where its other half is known.
pub(in crate::config) struct AllowedUrl;

impl Kind for AllowedUrl {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a URL such as `http://frontend.example:7243`";

    fn from_text(text: &str) -> Result<Box<str>, String> {
        Ok(text.into())
    }

    fn pattern() -> &'static str {
        "^https?://"
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn public_urls_leave_room_for_a_seal() {
        let of_length = |length: usize| format!("http://a/{}", "x".repeat(length - "http://a/".len()));
        assert!(PublicUrl::from_text(&of_length(500)).is_ok());
        assert!(PublicUrl::from_text(&of_length(501)).unwrap_err().starts_with("has 501 characters"));
    }

    proptest! {
        #[test]
        fn secrets_may_be_written_in_any_base64(secret in any::<[u8; 32]>()) {
            for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                prop_assert_eq!(KeySecret::from_text(&engine.encode(secret)), Ok(secret));
            }
        }

        #[test]
        fn secrets_of_another_length_are_refused(secret in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assume!(secret.len() != 32);
            let why = KeySecret::from_text(&STANDARD.encode(&secret)).unwrap_err();
            prop_assert!(why.starts_with(&format!("is {} byte", secret.len())), "{}", why);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (PublicUrl::from_text(&text), KeyId::from_text(&text), KeySecret::from_text(&text));
            let _ = AllowedUrl::from_text(&text);
        }
    }
}

//! What holds for the text of any configuration file.

use nexus_gateway::config::load_text;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match load_text(text) {
        Ok(settings) => {
            assert!(!settings.listen.is_empty(), "there is somewhere to listen");
            assert_eq!(load_text(text).as_ref(), Ok(&settings), "the same text means the same");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal has a reason");
            for problem in problems {
                let told = problem.to_string();
                assert!(!told.trim().is_empty() && told.len() < 4096 + 2 * text.len(), "{told}");
            }
        }
    }
}

//! What `check` says of the admin port.

use nexus_gateway::config::notes;

use crate::load_text;

#[test]
fn a_port_that_shows_health_and_metrics_only_is_noted() {
    let of = |text: &str| notes(&load_text(text).unwrap());
    for closed in ["0.0.0.0:1", "10.0.0.1:1", "'[::]:1'"] {
        let notes = of(&format!("admin: {{ address: {closed} }}"));
        assert!(notes.len() == 1 && notes[0].contains("`admin.token`"), "{notes:?}");
        assert!(of(&format!("admin: {{ address: {closed}, token: 0123456789abcdef }}")).is_empty());
    }
    for open in ["127.0.0.1:1", "'[::1]:1'"] {
        assert!(of(&format!("admin: {{ address: {open} }}")).is_empty());
    }
}

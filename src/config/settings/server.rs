//! Bounds of the data port.

use super::narrow;
use crate::config::file::{Http2, Server};
use crate::gates::ProcessSettings;
use crate::server::{Http2Settings, ServerSettings};

/// What the file says of it, else the defaults.
pub(super) fn build(file: Server) -> ServerSettings {
    let default = ServerSettings::default();
    ServerSettings {
        max_connections: file.max_connections.map_or(default.max_connections, |value| value.0),
        max_connections_per_peer: file
            .max_connections_per_peer
            .map_or(default.max_connections_per_peer, |value| value.0),
        max_cuts_per_peer: file.max_cuts_per_peer.map_or(default.max_cuts_per_peer, |value| narrow(value.0)),
        max_head: file.max_head.map_or(default.max_head, |value| value.0),
        max_headers: file.max_headers.map_or(default.max_headers, |value| value.0),
        max_uri: file.max_uri.map_or(default.max_uri, |value| value.0),
        head_timeout: file.head_timeout.map_or(default.head_timeout, |value| value.0),
        handshake_timeout: file.handshake_timeout.map_or(default.handshake_timeout, |value| value.0),
        max_handshakes_per_peer: file.max_handshakes_per_peer.map_or(default.max_handshakes_per_peer, |value| value.0),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |value| value.0),
        max_unread_bytes: file.max_unread_bytes.map_or(default.max_unread_bytes, |value| value.0),
        max_requests_per_connection: file
            .max_requests_per_connection
            .map_or(default.max_requests_per_connection, |value| value.0),
        http2: http2(file.http2.unwrap_or_default()),
        grace: file.grace.map_or(default.grace, |value| value.0),
        workers: file.workers.map_or(default.workers, |value| value.0),
        process: ProcessSettings {
            max_in_flight: file.max_in_flight.map_or(default.process.max_in_flight, |value| value.0),
            max_queued_bytes: file.max_queued_bytes.map_or(default.process.max_queued_bytes, |value| value.0),
            body_timeout: file.body_timeout.map_or(default.process.body_timeout, |value| value.0),
            max_wait: file.max_wait.map_or(default.process.max_wait, |value| value.0),
        },
    }
}

fn http2(file: Http2) -> Http2Settings {
    let default = Http2Settings::default();
    Http2Settings {
        max_streams: file.max_streams.map_or(default.max_streams, |value| narrow(value.0)),
        stream_window: file.stream_window.map_or(default.stream_window, |value| narrow(value.0)),
        connection_window: file.connection_window.map_or(default.connection_window, |value| narrow(value.0)),
        ping_every: file.ping_every.map_or(default.ping_every, |value| value.0),
        ping_timeout: file.ping_timeout.map_or(default.ping_timeout, |value| value.0),
    }
}

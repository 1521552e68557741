//! Where parked operations are kept, and how many in all.

use super::tls;
use crate::config::file;
use crate::config::report::Report;
use crate::park::{ParkingSettings, StoreAt, postgres};

/// What holds for all endpoints.
pub(super) fn build(file: Option<file::Parking>, report: &mut Report<'_>) -> ParkingSettings {
    let file = file.unwrap_or_default();
    let default = ParkingSettings::default();
    let store = file.store.map_or(default.store, |value| value.0);
    let cleartext = matches!(&store, StoreAt::Postgres(url) if !postgres::is_over_tls(url));
    let useless = cleartext
        .then(|| "the store beside it has no `?sslmode=verify-full`; write that there, or remove `tls`".to_owned());
    let tls = tls::client_beside(useless, file.tls, "park.tls", report);
    ParkingSettings {
        store,
        tls,
        max: file.max.map_or(default.max, |value| value.0),
        max_bytes: file.max_bytes.map_or(default.max_bytes, |value| value.0),
    }
}

/// Gateways that share a store open what another one sealed. So also where no policy parks any more: what was parked
/// before may have to be finished.
pub(super) fn refuse_shared_without_keys(parking: &ParkingSettings, has_keys: bool, report: &mut Report<'_>) {
    if matches!(parking.store, StoreAt::Postgres(_)) && !has_keys {
        let message = "gateways that share a store need the same keys, and one that is made and kept in the state folder \
            is of no use to the others; make one with `nexus-gateway keys new`, and write it under `callbacks.keys`";
        report.add("park.store", message);
    }
}

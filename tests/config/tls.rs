//! Files of certificates: read with the configuration, refused at their key, noticed when they change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nexus_gateway::config::{Overrides, expiries, expiring, load, load_changed, notes};
use nexus_gateway::tls::{ClientAuth, KeyPair, Roots};
use tempfile::tempdir;

use crate::certificates::{Authority, For, Issued};
use crate::{load_path, refusal, write};

const LISTENER: &str = "tls: { certificate: FOLDER/tls.crt, key: FOLDER/tls.key, clients: { ca: FOLDER/ca.crt } }";

/// A configuration of one listener with files of `issued` and the bundle `ca`, all in `folder`.
fn files(folder: &Path, issued: &Issued, ca: &str, listener: &str) -> std::path::PathBuf {
    write(folder, "tls.crt", &issued.chain);
    write(folder, "tls.key", &issued.key);
    write(folder, "ca.crt", ca);
    let listener = listener.replace("FOLDER", folder.to_str().expect("a path of text"));
    write(folder, "gateway.yaml", &format!("listen:\n  - address: 127.0.0.1:0\n    {listener}\n"))
}

#[test]
fn a_listener_has_what_its_files_say() {
    let (folder, authority) = (tempdir().unwrap(), Authority::new("authority"));
    let issued = authority.issue(For { hosts: &["gateway.test"], ..For::default() });
    let listener = load_path(&files(folder.path(), &issued, &authority.pem, LISTENER)).unwrap().listen.remove(0);
    let tls = listener.tls.unwrap();
    assert_eq!(tls.certificates, [KeyPair::read(&issued.chain, &issued.key).unwrap()]);
    assert_eq!(tls.clients, ClientAuth::Required(Roots::read(&authority.pem).unwrap()));
    assert!(tls.only_tls13 && listener.http2);

    let more = LISTENER.replace("ca.crt }", "ca.crt, required: false }, min_version: \"1.2\"") + "\n    http2: false";
    let listener = load_path(&files(folder.path(), &issued, &authority.pem, &more)).unwrap().listen.remove(0);
    let tls = listener.tls.unwrap();
    assert!(matches!(tls.clients, ClientAuth::Optional(_)));
    assert!(!tls.only_tls13 && !listener.http2);
}

#[test]
fn files_that_do_not_fit_are_refused_at_their_key() {
    let authority = Authority::new("authority");
    let good = authority.issue(For::default());
    let other = authority.issue(For::default());
    let encrypted =
        good.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE").replace("END PRIVATE", "END ENCRYPTED PRIVATE");
    let garbled = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (chain, key, ca, expected) in [
        (&*good.chain, &*other.key, &*authority.pem, "tls.key: `FOLDER/tls.key` is not the key of the certificate"),
        (&good.chain, &good.chain, &authority.pem, "tls.key: `FOLDER/tls.key` has no PEM private key"),
        (&good.chain, &encrypted, &authority.pem, "tls.key: `FOLDER/tls.key` is encrypted"),
        (&good.chain, garbled, &authority.pem, "tls.key: `FOLDER/tls.key` has a private key that cannot be used"),
        (&good.key, &good.key, &authority.pem, "tls.certificate: `FOLDER/tls.crt` has no PEM certificate"),
        ("text", &good.key, &authority.pem, "tls.certificate: `FOLDER/tls.crt` has no PEM certificate"),
        (not_der, &good.key, &authority.pem, "tls.certificate: `FOLDER/tls.crt` has a certificate that cannot be used"),
        (&good.chain, &good.key, "", "tls.clients.ca: `FOLDER/ca.crt` has no PEM certificate"),
        (&good.chain, &good.key, &good.chain, "tls.clients.ca: `FOLDER/ca.crt` has no certificate of an authority"),
    ] {
        let folder = tempdir().unwrap();
        let issued = Issued { chain: chain.into(), key: key.into() };
        let report = refusal(load_path(&files(folder.path(), &issued, ca, LISTENER)));
        let report = report.replace(folder.path().to_str().unwrap(), "FOLDER");
        let expected = format!("FOLDER/gateway.yaml:3: listen[0].{expected}");
        assert!(report.starts_with(&expected) && report.lines().count() == 1, "{expected}: {report}");
        let secrets = good.key.lines().chain(other.key.lines()).filter(|line| line.len() > 30);
        assert!(secrets.into_iter().all(|line| !report.contains(line)), "a key is shown: {report}");
    }
}

/// As the kubelet does it: `tls.crt` leads to `..data/tls.crt`, and `..data` is swapped from one folder to another.
#[test]
fn a_swapped_symlink_is_a_changed_configuration() {
    let (folder, authority) = (tempdir().unwrap(), Authority::new("authority"));
    let path = |name: &str| folder.path().join(name);
    for name in ["..first", "..second"] {
        fs::create_dir(path(name)).unwrap();
        let issued = authority.issue(For::default());
        write(&path(name), "tls.crt", &issued.chain);
        write(&path(name), "tls.key", &issued.key);
    }
    symlink("..first", path("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), path(name)).unwrap();
    }
    let listener = "listen: [{ address: '127.0.0.1:0', tls: { certificate: FOLDER/tls.crt, key: FOLDER/tls.key } }]";
    let file = write(folder.path(), "gateway.yaml", &listener.replace("FOLDER", folder.path().to_str().unwrap()));

    let overrides = Overrides::default();
    let (inputs, first) = load(Some(&file), &overrides);
    assert!(load_changed(Some(&file), &overrides, &inputs).is_none());
    symlink("..second", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    let (inputs, second) = load_changed(Some(&file), &overrides, &inputs).unwrap();
    assert_ne!(first.unwrap().listen, second.unwrap().listen);

    // Halfway through a change that is not atomic, and at its end.
    let issued = authority.issue(For::default());
    write(&path("..second"), "tls.key", &issued.key);
    let (inputs, half) = load_changed(Some(&file), &overrides, &inputs).unwrap();
    assert!(refusal(half).contains("is not the key of the certificate"));
    write(&path("..second"), "tls.crt", &issued.chain);
    assert!(load_changed(Some(&file), &overrides, &inputs).unwrap().1.is_ok());
}

#[test]
fn certificates_that_expire_soon_are_noted() {
    let (folder, authority) = (tempdir().unwrap(), Authority::new("authority"));
    for (expired, expected) in [(false, "expires at 20"), (true, "expired at 20")] {
        let issued = authority.issue(For { expired, ..For::default() });
        let settings = load_path(&files(folder.path(), &issued, &authority.pem, LISTENER)).unwrap();
        let notes = notes(&settings);
        let expected = format!("the certificate of listen[0] {expected}");
        assert!(notes.len() == 1 && notes[0].starts_with(&expected), "{notes:?}");
        let expires = expiries(&settings)[0].1;
        let before = |days: i64| UNIX_EPOCH + Duration::from_secs((expires - days * 86_400).unsigned_abs());
        assert_eq!(expiring(&settings, before(15)), [""; 0]);
        assert!(expiring(&settings, before(13))[0].ends_with(", in 13 days"));
    }
}

#[test]
fn every_certificate_that_is_shown_has_its_end() {
    let (folder, authority) = (tempdir().unwrap(), Authority::new("authority"));
    let issued = authority.issue(For::default());
    write(folder.path(), "tls.crt", &issued.chain);
    write(folder.path(), "tls.key", &issued.key);
    let text = "
listen: [{ address: '127.0.0.1:0', tls: PAIR }]
admin: { address: '127.0.0.1:0', tls: PAIR }
authentication:
  jwt: [{ issuer: i, audience: a, jwks: { url: 'https://i.example/', tls: PAIR } }]
clusters:
  home: { url: 'https://home.example', tls: PAIR }
  plain: { url: 'http://plain.example' }
endpoints:
  partner:
    external:
      url: https://partner.example
      tls: PAIR
      credentials: { oauth2: { token_url: 'https://t.example', client_id: c, client_secret: s, tls: PAIR } }
callbacks:
  public_url: http://gateway.example
  allow: ['http://127.0.0.1:*', { url: 'https://callbacks.example', tls: PAIR }]
";
    let pair =
        "{ certificate: FOLDER/tls.crt, key: FOLDER/tls.key }".replace("FOLDER", folder.path().to_str().unwrap());
    let settings = load_path(&write(folder.path(), "gateway.yaml", &text.replace("PAIR", &pair)));
    let settings = settings.unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut used_for: Vec<_> = expiries(&settings).into_iter().map(|(used_for, _)| used_for).collect();
    used_for.sort();
    let expected = [
        "admin",
        "authentication.jwt[0]",
        "callbacks.allow[1]",
        "clusters.home",
        "endpoints.partner",
        "endpoints.partner.credentials.oauth2",
        "listen[0]",
    ];
    assert_eq!(used_for, expected);
    assert_eq!(notes(&settings).iter().filter(|note| note.starts_with("the certificate of ")).count(), expected.len());
}

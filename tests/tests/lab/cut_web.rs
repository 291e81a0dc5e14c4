//! Checks of a real nginx that breaks off, hangs and dawdles at every byte.

use lb::model::check::{CheckKind, HttpCheck, TlsCheck};
use lb_tests::{
    lab::Lab,
    nginx::{HTTP, HTTP2, HTTPS, HTTPS2, Nginx},
    topo::Topology,
};

use crate::cut::{Conversation, bytes_of, bytes_of_records, end_of};

/// Digits of the date have 5 or 6 bits each (RFC 7541 appendix B).
const JITTER: usize = 4;
/// What a record more adds, into which nginx now and then divides its frames: header, type and tag (RFC 8446 section 5.2).
const RECORD: usize = 5 + 1 + 16;

const BODY: &[u8] = b"all is well\n";

fn http(body: bool, tls: bool, http2: bool) -> CheckKind {
    CheckKind::Http(HttpCheck {
        path: "/health".to_owned(),
        body: body.then(|| "^all is well".to_owned()),
        tls: tls.then(TlsCheck::default),
        http2,
        ..HttpCheck::default()
    })
}

fn in_a_lab(of: impl FnOnce(&Lab, Conversation<'static>) -> anyhow::Result<()>) {
    Lab::test(Topology::one_segment(1), |lab| {
        let _web = Nginx::start(&lab.scope, &lab.net.backends[0])?;
        let plain = Conversation {
            what: "http",
            kind: http(false, false, false),
            port: HTTP,
            finds: "status 200",
            steps: &[""],
            needs: Some(|answer| end_of(answer, b"\r\n\r\n")),
            every: 1,
            jitter: 0,
            decisive: |answer| bytes_of(answer, &[b"HTTP/1.1 200"]),
            reset_may_fail: false,
        };
        of(lab, plain)
    });
}

#[test]
fn http_needs_its_headers_and_the_body_if_it_is_asked_for() {
    in_a_lab(|lab, plain| {
        let body = Conversation {
            what: "http with its body",
            kind: http(true, false, false),
            steps: &["", "the body cannot be read: "],
            needs: Some(|answer| end_of(answer, BODY)),
            decisive: |answer| bytes_of(answer, &[b"HTTP/1.1 200", b"all is well"]),
            ..plain
        };
        plain.holds(lab)?;
        body.holds(lab)
    });
}

#[test]
fn https_needs_its_handshake_headers_and_body() {
    in_a_lab(|lab, plain| {
        let kind = http(true, true, false);
        // The headers and the body are one record.
        let steps = &["TLS: ", ""];
        let decisive = |answer: &[u8]| bytes_of_records(answer, 0);
        Conversation { what: "https", kind, port: HTTPS, steps, needs: None, decisive, ..plain }.holds(lab)
    });
}

#[test]
fn http2_needs_its_frames() {
    in_a_lab(|lab, plain| {
        let kind = http(true, false, true);
        let steps = &["", "the body cannot be read: "];
        Conversation {
            what: "HTTP/2",
            kind,
            port: HTTP2,
            steps,
            needs: None,
            jitter: JITTER,
            decisive: |answer| bytes_of(answer, &[b"all is well"]),
            reset_may_fail: true,
            ..plain
        }
        .holds(lab)
    });
}

#[test]
fn http2_over_tls_needs_its_handshake_and_frames() {
    in_a_lab(|lab, plain| {
        let kind = http(true, true, true);
        let steps = &["TLS: ", "", "the body cannot be read: "];
        Conversation {
            what: "HTTP/2 over TLS",
            kind,
            port: HTTPS2,
            steps,
            needs: None,
            jitter: JITTER + RECORD,
            decisive: |answer| bytes_of_records(answer, 0),
            reset_may_fail: true,
            ..plain
        }
        .holds(lab)
    });
}

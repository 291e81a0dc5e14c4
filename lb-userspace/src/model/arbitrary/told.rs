//! Random ways to tell people.

use std::path::PathBuf;

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    events::Kind,
    model::{
        check::{Millis, Secret},
        notify::{Hooks, Mail, MailTls, Notify, Webhook},
    },
};

fn programs() -> impl Strategy<Value = Vec<String>> {
    let words = vec(select(vec!["up", "", "a b", "$X: #"]).prop_map(str::to_owned), 0..3);
    let some = words.prop_map(|words| std::iter::once("/bin/tell".to_owned()).chain(words).collect());
    prop_oneof![3 => Just(Vec::new()), 1 => some]
}

pub(super) fn hooks() -> impl Strategy<Value = Hooks> {
    (programs(), programs(), programs(), programs()).prop_map(
        |(notify_up, notify_down, quorum_up, quorum_down)| Hooks {
            notify_up,
            notify_down,
            quorum_up,
            quorum_down,
        },
    )
}

/// Who is told of events.
pub(crate) fn notify() -> impl Strategy<Value = Notify> {
    let millis = || prop_oneof![Just(2000), 1..=86_400_000u32].prop_map(Millis);
    let kinds = option::of(vec(select(Kind::ALL.to_vec()), 0..4));
    let router_id = option::of(select(vec!["edge 1", "null", "-", "#"]).prop_map(str::to_owned));
    let user = select(vec!["nobody", "root"]).prop_map(str::to_owned);
    let times = (millis(), millis(), millis());
    (router_id, kinds, times, programs(), user, vec(webhooks(), 0..3), option::of(mails())).prop_map(
        |(router_id, events, (delay, interval, script_timeout), program, script_user, webhooks, mail)| {
            Notify {
                router_id,
                events,
                delay,
                interval,
                program,
                script_user,
                script_timeout,
                webhooks,
                mail,
            }
        },
    )
}

/// One that stands in the file, in a file of its own, or nowhere.
fn secrets() -> impl Strategy<Value = (Option<Secret>, Option<PathBuf>)> {
    select(vec![
        (None, None),
        (Some(Secret("Bearer a: #\"'".to_owned())), None),
        (None, Some(PathBuf::from("/etc/lb/secret"))),
    ])
}

fn webhooks() -> impl Strategy<Value = Webhook> {
    let url = select(vec!["https://hooks.example/a?b=c#d", "http://[2001:db8::1]:8080/", "http://127.0.0.1"]);
    let header = select(vec!["Authorization", "X-Token"]);
    let ca = option::of(Just(PathBuf::from("/etc/ca.pem")));
    (url, 1..=86_400_000u32, 0..=100u16, header, secrets(), any::<bool>(), ca).prop_map(
        |(url, timeout, retries, header, (secret, secret_file), verify, ca)| Webhook {
            url: url.to_owned(),
            timeout: Millis(timeout),
            retries,
            header: header.to_owned(),
            secret,
            secret_file,
            verify,
            ca,
        },
    )
}

fn mails() -> impl Strategy<Value = Mail> {
    let to = vec(select(vec!["ops@example.net", "root@localhost"]).prop_map(str::to_owned), 1..3);
    let server = select(vec!["mail.example.net", "127.0.0.1", "2001:db8::25"]);
    let port = option::of(1..=u16::MAX);
    let tls = select(vec![MailTls::Off, MailTls::Starttls, MailTls::On]);
    let helo = option::of(Just("edge-1.example.net".to_owned()));
    let ca = option::of(Just(PathBuf::from("/etc/ca.pem")));
    (to, server, port, 1..=86_400_000u32, tls, (helo, any::<bool>(), ca), secrets()).prop_map(
        |(to, server, port, timeout, tls, (helo_name, verify, ca), (password, password_file))| Mail {
            to,
            from: "lb@example.net".to_owned(),
            server: server.to_owned(),
            port,
            connect_timeout: Millis(timeout),
            helo_name,
            tls,
            verify,
            ca,
            user: (password.is_some() || password_file.is_some()).then(|| "lb".to_owned()),
            password,
            password_file,
        },
    )
}

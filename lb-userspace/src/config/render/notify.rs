//! Who is told, written back.

use std::net::IpAddr;

use super::{Out, name_of, quoted};
use crate::{
    config::{
        notify::MAIL_TLS,
        schema::{
            self, Key,
            notify::{hooks, *},
        },
    },
    model::notify::{Hooks, Mail, Notify, Webhook},
};

impl Out {
    pub(super) fn notify(&mut self, notify: &Notify) {
        let Notify {
            router_id,
            events,
            delay,
            interval,
            program,
            script_user,
            script_timeout,
            webhooks,
            mail,
        } = notify;
        let default = Notify::default();
        self.line_if(&ROUTER_ID, router_id);
        if let Some(kinds) = events {
            self.list(&EVENTS, kinds, |out, kind| out.raw(kind.name()));
        }
        self.line_unless(&DELAY, delay, &default.delay);
        self.line_unless(&INTERVAL, interval, &default.interval);
        self.program(&PROGRAM, program);
        self.line_unless(&SCRIPT_USER, script_user, &default.script_user);
        self.line_unless(&SCRIPT_TIMEOUT, script_timeout, &default.script_timeout);
        if !webhooks.is_empty() {
            self.list(&WEBHOOKS, webhooks, Self::webhook);
        }
        if let Some(mail) = mail {
            self.mail(mail);
        }
    }

    pub(super) fn hooks(&mut self, programs: &Hooks) {
        let Hooks { notify_up, notify_down, quorum_up, quorum_down } = programs;
        self.program(&hooks::NOTIFY_UP, notify_up);
        self.program(&hooks::NOTIFY_DOWN, notify_down);
        self.program(&hooks::QUORUM_UP, quorum_up);
        self.program(&hooks::QUORUM_DOWN, quorum_down);
    }

    fn program(&mut self, key: &Key, words: &[String]) {
        if !words.is_empty() {
            self.list(key, words, |out, word| out.raw(&quoted(word)));
        }
    }

    fn webhook(&mut self, webhook: &Webhook) {
        use schema::notify::webhook::*;
        let Webhook { url, timeout, retries, header, secret, secret_file, verify, ca } = webhook;
        let default = Webhook::default();
        self.line(&URL, url);
        self.line_unless(&TIMEOUT, timeout, &default.timeout);
        self.line_unless(&RETRIES, retries, &default.retries);
        self.line_unless(&HEADER, header, &default.header);
        self.line_if(&SECRET, &secret.as_ref().map(|secret| &secret.0));
        self.line_if(&SECRET_FILE, &secret_file.as_ref().map(|path| path.display()));
        self.line_unless(&VERIFY, verify, &default.verify);
        self.line_if(&CA, &ca.as_ref().map(|path| path.display()));
    }

    fn mail(&mut self, mail: &Mail) {
        let Mail { to, from, server, port, connect_timeout, helo_name, tls, verify, ca, user, .. } = mail;
        let default = Mail::default();
        self.list(&EMAIL, to, |out, address| out.raw(&quoted(address)));
        self.line(&EMAIL_FROM, from);
        let bracketed = match server.parse() {
            Ok(IpAddr::V6(_)) if port.is_some() => format!("[{server}]"),
            _ => server.clone(),
        };
        match port {
            Some(port) => self.line(&SMTP_SERVER, format!("{bracketed}:{port}")),
            None => self.line(&SMTP_SERVER, bracketed),
        }
        self.line_unless(&SMTP_CONNECT_TIMEOUT, connect_timeout, &default.connect_timeout);
        self.line_if(&SMTP_HELO_NAME, helo_name);
        self.line_unless(&SMTP_TLS, &name_of(*tls, &MAIL_TLS), &name_of(default.tls, &MAIL_TLS));
        self.line_unless(&SMTP_VERIFY, verify, &default.verify);
        self.line_if(&SMTP_CA, &ca.as_ref().map(|path| path.display()));
        self.line_if(&SMTP_USER, user);
        self.line_if(&SMTP_PASSWORD, &mail.password.as_ref().map(|secret| &secret.0));
        self.line_if(&SMTP_PASSWORD_FILE, &mail.password_file.as_ref().map(|path| path.display()));
    }
}

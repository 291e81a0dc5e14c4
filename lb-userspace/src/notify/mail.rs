//! A mail through SMTP.

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        Error,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use tokio::time::timeout;

use super::{Settings, host_name, target::Refusal};
use crate::{
    events::Batch,
    model::notify::{Mail, MailTls},
};

/// Ports of SMTP (RFC 5321) and of SMTP over TLS (RFC 8314).
const SMTP: u16 = 25;
const SUBMISSIONS: u16 = 465;

/// One attempt, with one mail to all.
pub async fn send(mail: &Mail, settings: &Settings, batch: &Batch) -> Result<(), Refusal> {
    let message = message(mail, settings, batch)?;
    let transport = transport(mail).await?;
    let sent = timeout(mail.connect_timeout.duration() * 2, transport.send(message)).await;
    match sent {
        Err(_) => Err(Refusal::temporary("the server takes too long")),
        Ok(Err(error)) if error.is_permanent() => Err(Refusal::permanent(told(&error))),
        Ok(Err(error)) => Err(Refusal::temporary(told(&error))),
        Ok(Ok(_)) => Ok(()),
    }
}

/// The error and its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// As keepalived's, the subject begins with the router_id.
fn message(mail: &Mail, settings: &Settings, batch: &Batch) -> Result<Message, Refusal> {
    let Settings { router_id, instance, .. } = settings;
    let mailbox = |text: &str| {
        let address = text.parse::<Address>();
        address.map(|address| Mailbox::new(None, address)).map_err(Refusal::permanent)
    };
    let mut builder = Message::builder()
        .from(mailbox(&mail.from)?)
        .subject(format!("[{router_id}] {}", batch.subject()))
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        builder = builder.to(mailbox(to)?);
    }
    let body = format!("{}\n-- \nlb, director {router_id}, instance {instance}\n", batch.body());
    builder.body(body).map_err(Refusal::permanent)
}

async fn transport(mail: &Mail) -> Result<AsyncSmtpTransport<Tokio1Executor>, Refusal> {
    let Mail { server, port, connect_timeout, helo_name, tls, user, .. } = mail;
    let (tls, default) = match tls {
        MailTls::Off => (Tls::None, SMTP),
        MailTls::Starttls => (Tls::Required(parameters(mail).await?), SMTP),
        MailTls::On => (Tls::Wrapper(parameters(mail).await?), SUBMISSIONS),
    };
    let name = helo_name.clone().unwrap_or_else(host_name);
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server)
        .port(port.unwrap_or(default))
        .tls(tls)
        .hello_name(ClientId::Domain(name))
        .timeout(Some(connect_timeout.duration()));
    if let Some(user) = user {
        builder = builder.credentials(Credentials::new(user.clone(), password(mail).await?));
    }
    Ok(builder.build())
}

async fn password(mail: &Mail) -> Result<String, Refusal> {
    match (&mail.password, &mail.password_file) {
        (Some(password), _) => Ok(password.0.clone()),
        (None, Some(path)) => {
            let read = tokio::fs::read_to_string(path).await;
            let text =
                read.map_err(|error| Refusal::temporary(format!("reading {}: {error}", path.display())))?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => Err(Refusal::permanent("there is no password")),
    }
}

async fn parameters(mail: &Mail) -> Result<TlsParameters, Refusal> {
    let mut builder = TlsParameters::builder(mail.server.clone());
    if !mail.verify {
        builder = builder.dangerous_accept_invalid_certs(true);
    }
    if let Some(path) = &mail.ca {
        let wrong = |error: &dyn std::fmt::Display| {
            Refusal::temporary(format!("the CA file {}: {error}", path.display()))
        };
        let pem = tokio::fs::read(path).await.map_err(|error| wrong(&error))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(&error))?);
    }
    builder.build().map_err(|error| Refusal::permanent(format!("TLS: {error}")))
}

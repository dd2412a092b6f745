//! Mail: a message for each notice, over TLS unless switched off by name.

use super::{Channel, LIMIT, Scrub, causes};
use crate::error::{AlertError, Undelivered};
use crate::message::Message;
use async_trait::async_trait;
use lettre::message::{Mailbox, header};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::path::Path;
use terms::Secret;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// It begins plain, and nothing else is said before it is protected (port 587).
    StartTls,
    /// From the beginning (port 465).
    Tls,
    /// Not at all; then nobody logs in (port 25).
    Off,
}

/// A server that takes mail.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    scrub: Scrub,
}

impl Smtp {
    /// Hands mail to `host`, logged in where a user and a password are given.
    pub fn new(
        name: &str,
        host: &str,
        port: Option<u16>,
        tls: MailTls,
        login: Option<(String, Secret)>,
        from: &str,
        to: &[String],
        ca_file: Option<&Path>,
    ) -> Result<Self, AlertError> {
        let wrong = |why: String, hint| AlertError::Channel { channel: name.to_owned(), why, hint };
        let mailbox = |text: &str| -> Result<Mailbox, AlertError> {
            let hint = "Write addresses as \"dba@example.org\" or \"Backups <bowline@example.org>\".";
            text.parse().map_err(|e| wrong(format!("{text:?} is no address for mail: {e}"), hint))
        };
        let to: Vec<Mailbox> = to.iter().map(|text| mailbox(text)).collect::<Result<_, _>>()?;
        if to.is_empty() {
            return Err(wrong("nobody is named to write to".into(), "Set to = [\"dba@example.org\"]."));
        }
        let parameters = || -> Result<TlsParameters, AlertError> {
            let hint = "Set ca_file to a PEM file of the certificate authority that signed the server's certificate.";
            let mut builder = TlsParameters::builder(host.to_owned());
            if let Some(path) = ca_file {
                let pem = std::fs::read(path).map_err(|e| wrong(format!("cannot read {}: {e}", path.display()), hint))?;
                let found =
                    Certificate::from_pem(&pem).map_err(|e| wrong(format!("{} holds no certificate: {}", path.display(), causes(&e)), hint))?;
                builder = builder.add_root_certificate(found);
            }
            builder.build_rustls().map_err(|e| wrong(format!("cannot speak TLS: {}", causes(&e)), hint))
        };
        let (usual, tls) = match tls {
            MailTls::StartTls => (587, Tls::Required(parameters()?)),
            MailTls::Tls => (465, Tls::Wrapper(parameters()?)),
            MailTls::Off if login.is_some() => {
                return Err(wrong("it would log in without TLS".into(), "Set tls = \"starttls\" or \"tls\", or leave user and password out."));
            }
            MailTls::Off => (25, Tls::None),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port.unwrap_or(usual)).tls(tls).timeout(Some(LIMIT));
        let scrub = Scrub::new(login.iter().map(|(_, password)| password));
        if let Some((user, password)) = login {
            builder = builder.credentials(Credentials::new(user, password.reveal().to_owned()));
        }
        Ok(Self { transport: builder.build(), from: mailbox(from)?, to, scrub })
    }

    fn mail(&self, message: &Message) -> Result<lettre::Message, String> {
        // Programs for mail show the messages of one alert together.
        let thread = format!("<{}.{}@bowline>", message.key, message.since.compact());
        let mut builder = lettre::Message::builder().from(self.from.clone()).subject(message.title()).references(thread);
        for one in &self.to {
            builder = builder.to(one.clone());
        }
        let text = format!("{}\n\n{}\n", message.title(), message.text());
        builder.header(header::ContentType::TEXT_PLAIN).body(text).map_err(|e| causes(&e))
    }
}

#[async_trait]
impl Channel for Smtp {
    fn kind(&self) -> &'static str {
        "smtp"
    }
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        let hint = "Look at host, port and tls of the channel, and at the mail server's log.";
        let mail = self.mail(message).map_err(|why| Undelivered::new(why, hint))?;
        let Err(e) = self.transport.send(mail).await else { return Ok(()) };
        let hint = match causes(&e).to_lowercase() {
            why if why.contains("certificate") => {
                "This host does not trust the mail server's certificate: set ca_file, or name the server as its certificate does."
            }
            why if why.contains("535") || why.contains("authenticat") => "The mail server does not accept user and password.",
            why if why.contains("starttls") => "The mail server offers no STARTTLS on this port: set tls = \"tls\" or another port.",
            _ => hint,
        };
        Err(Undelivered::new(self.scrub.clean(&causes(&e)), hint))
    }
}

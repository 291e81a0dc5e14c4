//! TLS of checks.

use std::{
    fmt::Display,
    path::Path,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring::default_provider},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

use super::{failure, local, step::Step};
use crate::{
    health::{Failure, Probe},
    model::check::TlsCheck,
};

/// Configurations that are made once.
#[derive(Debug, Default)]
pub struct Tls {
    blind: OnceLock<Arc<ClientConfig>>,
    system: OnceLock<Arc<ClientConfig>>,
    certificates: OnceLock<Vec<CertificateDer<'static>>>,
}

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug)]
pub enum Speaks {
    /// Nothing is said about it.
    Anything,
    /// This one, by ALPN (RFC 7301).
    Protocol(&'static [u8]),
}

impl Tls {
    /// Speaks TLS on the connection of an attempt.
    pub async fn connect(
        &self,
        stream: TcpStream,
        probe: &Probe,
        host: Option<&str>,
        how: &TlsCheck,
        speaks: Speaks,
        step: &Step,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        step.is("TLS");
        let address = probe.target.ip().to_string();
        let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        let name = how.sni.as_deref().or(host).unwrap_or(&address).to_owned();
        self.speak(stream, name, how, speaks).await
    }

    /// The same with a server of this name, or address.
    pub async fn speak(
        &self,
        stream: TcpStream,
        name: String,
        how: &TlsCheck,
        speaks: Speaks,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(name).map_err(|error| Failure { why: format!("TLS: {error}") })?;
        let mut config = self.config(how).await?;
        if let Speaks::Protocol(protocol) = speaks {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
        }
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let Failure { why } = failure(&error);
            Failure { why: format!("TLS: {why}") }
        })?;
        match speaks {
            Speaks::Protocol(protocol) if stream.get_ref().1.alpn_protocol() != Some(protocol) => {
                let protocol = String::from_utf8_lossy(protocol);
                Err(Failure { why: format!("TLS: the server does not agree to {protocol}") })
            }
            _ => Ok(stream),
        }
    }

    /// Those that the system trusts.
    pub fn system_certificates(&self) -> &[CertificateDer<'static>] {
        self.certificates.get_or_init(|| rustls_native_certs::load_native_certs().certs)
    }

    fn system_roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.system_certificates().iter().cloned());
        roots
    }

    async fn config(&self, how: &TlsCheck) -> Result<Arc<ClientConfig>, Failure> {
        match (how.verify, &how.ca) {
            (false, _) => Ok(self.blind.get_or_init(|| config(None)).clone()),
            (true, None) => Ok(self.system.get_or_init(|| config(Some(self.system_roots()))).clone()),
            // Anew each time: it may have been replaced.
            (true, Some(path)) => {
                let pem = local::read(path).await.map_err(|error| ca_file(path, &error))?;
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|error| ca_file(path, &error))?;
                    roots.add(certificate).map_err(|error| ca_file(path, &error))?;
                }
                Ok(config(Some(roots)))
            }
        }
    }
}

/// What is wrong with the file of a CA.
pub fn ca_file(path: &Path, error: &dyn Display) -> Failure {
    Failure { why: format!("the CA file {}: {error}", path.display()) }
}

/// Without roots every certificate is good.
fn config(roots: Option<RootCertStore>) -> Arc<ClientConfig> {
    let provider = Arc::new(default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = versions.expect("the provider has cipher suites of TLS 1.2 and 1.3");
    let config = match roots {
        Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        None => {
            let verifier = Arc::new(Blind { provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    Arc::new(config)
}

/// Believes every certificate: a check asks whether the server works, unless `verify` asks for more.
#[derive(Debug)]
struct Blind {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! PEM, the text form of certificates and keys (RFC 7468).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

/// Letters in a line, as everyone writes it.
const LINE: usize = 64;

pub fn certificate(der: &[u8]) -> String {
    block("CERTIFICATE", der)
}

pub fn key(der: &[u8]) -> String {
    block("PRIVATE KEY", der)
}

pub fn read_certificate(text: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(text.as_bytes()).ok()
}

pub fn read_key(text: &str) -> Option<PrivatePkcs8KeyDer<'static>> {
    PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()
}

fn block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem += line;
        pem.push('\n');
        rest = after;
    }
    pem + &format!("-----END {label}-----\n")
}

//! Who speaks: certificates of members, agents and people, and TLS between all of them.
//!
//! One certificate authority is one cluster: whoever shows a certificate of it is who the certificate says, and
//! nothing else of it counts, neither address nor host name. Never decides what anyone may do.
//! Start at [`Identity`]; [`Authority`] makes certificates, [`Tls`] uses them, [`Connector`] dials.
//!
//! ## Design
//!
//! - TLS 1.3 alone, with ring. No session tickets: each connection proves itself anew.
//! - A server takes any certificate whose key the client has, and judges it after the handshake ([`Shown`]): so
//!   that whoever is refused reads a sentence, not a number of an alert.
//! - A certificate that is exchanged counts for the next connection, without a restart ([`Tls::exchange`]).

mod authority;
mod certificate;
mod client;
mod connector;
mod folder;
mod name;
mod pem;
mod serial;
mod server;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod token;
mod user_token;

pub use authority::{Authority, AuthorityError, Request, request_key};
pub use certificate::{CertificateError, Credential, Facts, fingerprint, hex};
pub use client::{pinned, trusting};
pub use connector::{Connector, Stream};
pub use folder::{Folder, FolderError, read_authority, read_credential};
pub use name::{Identity, NameError};
pub use server::Shown;
pub use time::{now, show_time};
pub use tls::{Tls, TlsError};
pub use token::{JoinToken, TokenTextError};
pub use user_token::{UserToken, UserTokenError};

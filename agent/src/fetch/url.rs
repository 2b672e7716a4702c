//! Where a file is fetched from, in parts, and how that is shown without its secrets.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;

use super::failure::{Failure, Kind};

/// A URL that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Http(HttpUrl),
    File(PathBuf),
}

/// Where a server is and what is asked of it.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    pub is_tls: bool,
    /// A name, or an address; IPv6 without its brackets.
    pub host: String,
    pub port: u16,
    pub path_and_query: String,
    /// `name:password`, as it stood in the URL.
    credentials: Option<String>,
}

impl std::fmt::Debug for HttpUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

/// A URL without what may be secret: name and password, and the query, where signatures and tokens stand.
pub fn shown(url: &str) -> String {
    let (rest, mark) = match url.split_once(['?', '#']) {
        Some((rest, _)) => (rest, if url.contains('?') { "?…" } else { "" }),
        None => (url, ""),
    };
    let Some((scheme, rest)) = rest.split_once("://") else { return format!("{rest}{mark}") };
    let (authority, path) = match rest.find('/') {
        Some(place) => rest.split_at(place),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{mark}")
}

impl Source {
    pub fn parse(url: &str) -> Result<Self, Failure> {
        match url.strip_prefix("file://") {
            Some(path) => {
                let path = percent_decoded(path.split(['?', '#']).next().unwrap_or_default());
                let path = path.filter(|path| path.starts_with('/') && !path.contains('\0'));
                let path = path.ok_or_else(|| Failure::new(Kind::Refused, "the URL names no file"))?;
                Ok(Self::File(PathBuf::from(path)))
            }
            None => HttpUrl::parse(url).map(Self::Http),
        }
    }
}

impl HttpUrl {
    pub fn parse(url: &str) -> Result<Self, Failure> {
        let not = |why: &str| Failure::new(Kind::Refused, format!("the URL is not valid: {why}"));
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| not(&error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(not("its scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| not("it names no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(not("it names no host"));
        }
        let place = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, place)| place);
        if place != authority.host() && authority.port_u16().is_none() {
            return Err(not("its port is none"));
        }
        let credentials = authority.as_str().rsplit_once('@').map(|(credentials, _)| credentials);
        let credentials = match credentials {
            Some(text) => {
                Some(percent_decoded(text).ok_or_else(|| not("its name and password are no text"))?)
            }
            None => None,
        };
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            is_tls,
            host,
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            path_and_query: path_and_query.to_owned(),
            credentials,
        })
    }

    /// Where a redirect leads. What was encrypted stays so, and a password is for its own server alone.
    pub fn redirected(&self, location: &str) -> Result<Self, Failure> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let authority = self.authority();
        let absolute = if let Some(rest) = location.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if location.contains("://") {
            location.to_owned()
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.starts_with('?') {
            let path = self.path_and_query.split('?').next().unwrap_or("/");
            format!("{scheme}://{authority}{path}{location}")
        } else {
            let path = self.path_and_query.split('?').next().unwrap_or("/");
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{scheme}://{authority}{directory}/{location}")
        };
        let no = |why: String| Failure::new(Kind::Redirect, why);
        let mut target = Self::parse(&absolute).map_err(|_| {
            no(format!("it is redirected to {}, which is neither http nor https", shown(&absolute)))
        })?;
        if self.is_tls && !target.is_tls {
            return Err(no(format!(
                "it is redirected from https to {}, which is not encrypted",
                shown(&absolute)
            )));
        }
        if target.credentials.is_none() && self.is_same_server(&target) {
            target.credentials.clone_from(&self.credentials);
        }
        Ok(target)
    }

    fn is_same_server(&self, other: &Self) -> bool {
        self.is_tls == other.is_tls && self.host == other.host && self.port == other.port
    }

    /// For the `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// For the `Authorization` header.
    pub fn authorization(&self) -> Option<String> {
        self.credentials.as_ref().map(|text| format!("Basic {}", STANDARD.encode(text)))
    }

    pub fn shown(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        shown(&format!("{scheme}://{}{}", self.authority(), self.path_and_query))
    }
}

/// `None` for what is no text afterwards, or none before.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (url, expected) in [
            ("http://user:pass@h.example:8080/a/b?token=x#f", "http://h.example:8080/a/b?…"),
            ("https://h/a", "https://h/a"),
            ("https://h/a#frag", "https://h/a"),
            ("http://a@b@h/x@y", "http://h/x@y"),
            ("file:///srv/a%20b", "file:///srv/a%20b"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let url = HttpUrl::parse("http://us%40er:p@[::1]:81/x?y=1").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path_and_query.as_str()), ("::1", 81, "/x?y=1"));
        assert_eq!(url.authority(), "[::1]:81");
        assert_eq!(url.authorization().unwrap(), format!("Basic {}", STANDARD.encode("us@er:p")));
        assert_eq!(Source::parse("file:///a%20b").unwrap(), Source::File("/a b".into()));
        for wrong in ["file://host/x", "file:///a%0", "ftp://h/x", "http:///x", "http://h:99999/"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say_but_not_out_of_encryption() {
        let url = HttpUrl::parse("https://u:p@h:444/a/b?q").unwrap();
        let target =
            |location: &str| url.redirected(location).map(|url| (url.shown(), url.credentials.is_some()));
        assert_eq!(target("/x").unwrap(), ("https://h:444/x".to_owned(), true));
        assert_eq!(target("x").unwrap(), ("https://h:444/a/x".to_owned(), true));
        assert_eq!(target("?z").unwrap(), ("https://h:444/a/b?…".to_owned(), true));
        assert_eq!(target("//other/x").unwrap(), ("https://other/x".to_owned(), false));
        assert_eq!(target("https://h:445/x").unwrap(), ("https://h:445/x".to_owned(), false));
        for refused in ["http://h:444/x", "ftp://h/x", "file:///etc/passwd"] {
            assert_eq!(target(refused).unwrap_err().kind, Kind::Redirect, "{refused}");
        }
    }
}

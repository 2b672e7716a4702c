//! A file to fetch, as one argument: a URL and, behind commas, what is to be done with it.

use muster_client::types::Fetch;

/// Options stand behind the URL, which may hold commas itself: it ends before the first word that is one of ours.
pub fn parse(text: &str) -> Result<Fetch, String> {
    let mut parts: Vec<&str> = text.split(',').collect();
    let mut fetch = Fetch::default();
    while parts.len() > 1 {
        let Some(last) = parts.last() else { break };
        match last.split_once('=') {
            None if *last == "unpack" => fetch.unpack = true,
            None if *last == "executable" => fetch.executable = true,
            Some(("sha256", digest)) => {
                if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(format!("`{digest}` is no sha256 of 64 hexadecimal digits"));
                }
                fetch.sha256 = Some(digest.to_ascii_lowercase());
            }
            Some(("path", path)) => fetch.path = Some(path.to_owned()),
            _ => break,
        }
        parts.pop();
    }
    fetch.url = parts.join(",");
    let known = ["http://", "https://", "file:///"];
    match known.iter().any(|scheme| fetch.url.starts_with(scheme)) {
        true => Ok(fetch),
        false => Err(format!("`{}` begins with none of {}", fetch.url, known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_behind_the_url() {
        let digest = "AB".repeat(32);
        let fetch = parse(&format!("https://h/a,b.tar.gz,unpack,path=lib,sha256={digest}")).unwrap();
        assert_eq!(fetch.url, "https://h/a,b.tar.gz");
        assert_eq!((fetch.unpack, fetch.executable, fetch.path.as_deref()), (true, false, Some("lib")));
        assert_eq!(fetch.sha256.unwrap(), "ab".repeat(32));
        let fetch = parse("file:///srv/run,executable").unwrap();
        assert_eq!((fetch.url.as_str(), fetch.executable), ("file:///srv/run", true));
        assert_eq!(parse("http://h/unpack").unwrap().url, "http://h/unpack");
        for wrong in ["ftp://h/x", "unpack", "", "http://h/x,sha256=12"] {
            parse(wrong).unwrap_err();
        }
    }
}

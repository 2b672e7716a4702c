//! Pages over a socket of our own, so that a test says every byte that it sends.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// One HTTP/1.1 request; gives status line with headers, and body. Absent while nobody listens.
pub fn request(address: &str, head: &str) -> Option<(String, String)> {
    let mut socket = TcpStream::connect(address).ok()?;
    // The server may close at any byte; what came until then is the answer.
    let _ = socket.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Some((head.to_owned(), body.to_owned()))
}

pub fn get(address: &str, path: &str) -> Option<(String, String)> {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"))
}

/// The value of the first sample of a metric on a daemon's page.
pub fn figure(address: &str, name: &str) -> Option<f64> {
    let (_, page) = get(address, "/metrics")?;
    let line =
        page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
    line.rsplit(' ').next()?.parse().ok()
}

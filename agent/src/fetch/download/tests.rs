//! Downloads from servers that misbehave.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;

/// What a server does with one connection: it sees the request's lines and writes what it likes.
type Answer = Box<dyn Fn(&[String], &mut TcpStream) + Send>;

/// A server on loopback that answers each connection by the next of its answers, and keeps the requests.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Server {
    fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let seen = requests.clone();
        let mut answers = VecDeque::from(answers);
        // Ends with its last answer; whoever asks then is refused.
        thread::spawn(move || {
            while let Some(answer) = answers.pop_front() {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let reader = BufReader::new(stream.try_clone().unwrap());
                let lines: Vec<String> =
                    reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                seen.lock().unwrap().push(lines.clone());
                answer(&lines, &mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        Self { port, requests }
    }

    fn url(&self, path: &str) -> HttpUrl {
        HttpUrl::parse(&format!("http://user:word@127.0.0.1:{}{path}", self.port)).unwrap()
    }

    fn header(&self, request: usize, name: &str) -> Option<String> {
        let requests = self.requests.lock().unwrap();
        let prefix = format!("{name}: ");
        requests[request].iter().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn say(text: impl Into<Vec<u8>>) -> Answer {
    let bytes = text.into();
    Box::new(move |_, stream| drop(stream.write_all(&bytes)))
}

fn with_body(head: &str, body: &[u8]) -> Answer {
    say([format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat())
}

fn get(url: &HttpUrl, change: impl FnOnce(&mut Wish<'_>)) -> Result<Vec<u8>, Failure> {
    let patience = Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(300),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(2),
    };
    let mut wish = Wish { url, bytes_max: 1 << 20, sha256: None, patience };
    change(&mut wish);
    let mut file = tempfile::tempfile().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes = runtime.block_on(download(&wish, &mut file))?;
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(bytes, content.len() as u64);
    Ok(content)
}

fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

#[test]
fn a_file_comes_with_its_length_in_chunks_or_until_the_end() {
    for answer in [
        with_body("200 OK\r\nContent-Length: 5", b"hello"),
        with_body("200 OK\r\nTransfer-Encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        with_body("200 OK\r\nConnection: close", b"hello"),
    ] {
        let server = Server::start(vec![answer]);
        assert_eq!(get(&server.url("/a?b=c"), |_| {}).unwrap(), b"hello");
        assert_eq!(server.requests.lock().unwrap()[0][0], "GET /a?b=c HTTP/1.1");
        assert_eq!(server.header(0, "accept-encoding").unwrap(), "identity");
        assert_eq!(server.header(0, "authorization").unwrap(), "Basic dXNlcjp3b3Jk");
    }
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let server = Server::start(vec![
        with_body("200 OK\r\nETag: \"v1\"\r\nContent-Length: 10", b"0123"),
        with_body("206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6", b"45"),
        with_body("206 Partial Content\r\nContent-Range: bytes 6-9/10\r\nContent-Length: 4", b"6789"),
    ]);
    let content = get(&server.url("/"), |wish| wish.sha256 = Some(sha256(b"0123456789"))).unwrap();
    assert_eq!(content, b"0123456789");
    assert_eq!(server.header(0, "range"), None);
    assert_eq!(server.header(1, "range").unwrap(), "bytes=4-");
    assert_eq!(server.header(1, "if-range").unwrap(), "\"v1\"");
    assert_eq!(server.header(2, "range").unwrap(), "bytes=6-");
}

#[test]
fn a_file_that_changed_meanwhile_begins_anew() {
    // The server ignores the range, because the version is another one.
    let server = Server::start(vec![
        with_body("200 OK\r\nETag: \"v1\"\r\nContent-Length: 10", b"0123"),
        with_body("200 OK\r\nETag: \"v2\"\r\nContent-Length: 3", b"abc"),
    ]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap(), b"abc");
    // It has no version and there is no digest: nobody could tell, so nothing is resumed.
    let server = Server::start(vec![
        with_body("200 OK\r\nContent-Length: 10", b"0123"),
        with_body("200 OK\r\nContent-Length: 3", b"abc"),
    ]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap(), b"abc");
    assert_eq!(server.header(1, "range"), None);
    // It says that it goes on, but with something else: the digest tells, and it is fetched as a whole.
    let server = Server::start(vec![
        with_body("200 OK\r\nContent-Length: 6", b"012"),
        with_body("206 Partial Content\r\nContent-Range: bytes 3-5/6\r\nContent-Length: 3", b"xyz"),
        with_body("200 OK\r\nContent-Length: 6", b"012345"),
    ]);
    assert_eq!(get(&server.url("/"), |wish| wish.sha256 = Some(sha256(b"012345"))).unwrap(), b"012345");
    assert_eq!(server.header(2, "range"), None);
    // Another part than was asked for, and a range that is none any more.
    let server = Server::start(vec![
        with_body("200 OK\r\nETag: \"v1\"\r\nContent-Length: 6", b"012"),
        with_body("206 Partial Content\r\nContent-Range: bytes 0-5/6\r\nContent-Length: 6", b"012345"),
        with_body("200 OK\r\nETag: \"v1\"\r\nContent-Length: 6", b"01"),
        with_body("416 Range Not Satisfiable\r\nContent-Length: 0", b""),
        with_body("200 OK\r\nContent-Length: 6", b"012345"),
    ]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap(), b"012345");
}

#[test]
fn a_server_that_lies_breaks_off_or_falls_silent_is_given_up() {
    let short = || with_body("200 OK\r\nContent-Length: 10", b"0123");
    let server = Server::start((0..40).map(|_| short()).collect());
    let failure = get(&server.url("/"), |_| {}).unwrap_err();
    assert_eq!(failure.kind, Kind::Broken, "{failure}");
    assert!(failure.what.contains("after 4 of 10 bytes"), "{failure}");
    // Without progress: the first and as many more as are allowed.
    assert_eq!(server.count(), 1 + limits::IDLE_ATTEMPTS_MAX);

    let silent = |head: &'static str| -> Answer {
        Box::new(move |_, stream| {
            let _ = stream.write_all(head.as_bytes());
            // Until the client gives up.
            let _ = std::io::copy(stream, &mut std::io::sink());
        })
    };
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0"] {
        let server = Server::start((0..10).map(|_| silent(head)).collect());
        let failure = get(&server.url("/"), |_| {}).unwrap_err();
        assert_eq!(failure.kind, Kind::Stalled, "{failure}");
    }
    // Drop by drop is no download.
    let drip: fn() -> Answer = || {
        Box::new(|_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let server = Server::start((0..10).map(|_| drip()).collect());
    let failure = get(&server.url("/"), |wish| wish.bytes_max = 1 << 20).unwrap_err();
    assert!(failure.kind == Kind::Stalled && failure.what.contains("too slow"), "{failure}");
    let server = Server::start((0..10).map(|_| say("nonsense\r\n\r\n")).collect());
    assert_eq!(get(&server.url("/"), |_| {}).unwrap_err().kind, Kind::Broken);
    // Nobody at all.
    let server = Server::start(Vec::new());
    let url = server.url("/");
    let failure = get(&url, |_| {}).unwrap_err();
    assert!(failure.kind == Kind::Unreachable || failure.kind == Kind::Broken, "{failure}");
}

#[test]
fn errors_that_may_pass_are_waited_for_and_others_are_not() {
    let server = Server::start(vec![
        with_body("503 Service Unavailable\r\nContent-Length: 0", b""),
        with_body("429 Too Many Requests\r\nContent-Length: 0", b""),
        with_body("200 OK\r\nContent-Length: 2", b"ok"),
    ]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap(), b"ok");
    let server =
        Server::start((0..3).map(|_| with_body("404 Not Found\r\nContent-Length: 0", b"")).collect());
    let failure = get(&server.url("/"), |_| {}).unwrap_err();
    assert_eq!((failure.kind, failure.what.as_str()), (Kind::Status, "the server answered 404 Not Found"));
    assert_eq!(server.count(), 1);
}

#[test]
fn redirects_are_followed_a_few_times_and_a_password_stays_at_home() {
    let other = Server::start(vec![with_body("200 OK\r\nContent-Length: 2", b"ok")]);
    let there = format!("302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:{}/b", other.port);
    let server = Server::start(vec![
        with_body("301 Moved Permanently\r\nContent-Length: 0\r\nLocation: /next?x", b""),
        with_body(&there, b""),
    ]);
    assert_eq!(get(&server.url("/a/b"), |_| {}).unwrap(), b"ok");
    assert_eq!(server.requests.lock().unwrap()[1][0], "GET /next?x HTTP/1.1");
    assert!(server.header(1, "authorization").is_some());
    assert_eq!(other.header(0, "authorization"), None);

    let round = || with_body("302 Found\r\nContent-Length: 0\r\nLocation: /again", b"");
    let server = Server::start((0..40).map(|_| round()).collect());
    let failure = get(&server.url("/"), |_| {}).unwrap_err();
    assert_eq!(failure.kind, Kind::Redirect, "{failure}");
    assert_eq!(server.count(), 1 + limits::REDIRECTS_MAX as usize);
    for location in ["file:///etc/passwd", "ftp://h/", ""] {
        let head = format!("302 Found\r\nContent-Length: 0\r\nLocation: {location}");
        let server = Server::start(vec![with_body(&head, b"")]);
        assert_eq!(get(&server.url("/"), |_| {}).unwrap_err().kind, Kind::Redirect, "{location}");
    }
}

#[test]
fn too_much_is_refused_before_and_while_it_comes() {
    let server = Server::start(vec![with_body("200 OK\r\nContent-Length: 2000000", b"x")]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap_err().kind, Kind::TooLarge);
    let endless: Answer = Box::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let server = Server::start(vec![endless]);
    assert_eq!(get(&server.url("/"), |_| {}).unwrap_err().kind, Kind::TooLarge);
    assert_eq!(server.count(), 1);
}

#[test]
fn a_wrong_digest_is_told_with_both() {
    let server = Server::start(vec![with_body("200 OK\r\nContent-Length: 5", b"hello")]);
    let failure = get(&server.url("/"), |wish| wish.sha256 = Some([0; 32])).unwrap_err();
    assert_eq!(failure.kind, Kind::Digest);
    assert!(
        failure.what.starts_with("its sha256 is 2cf24dba") && failure.what.ends_with("0000"),
        "{failure}"
    );
}

#[test]
fn plain_text_where_tls_is_expected_is_an_error_of_tls() {
    let server = Server::start((0..10).map(|_| say("HTTP/1.1 200 OK\r\n\r\n")).collect());
    let url = HttpUrl::parse(&format!("https://127.0.0.1:{}/", server.port)).unwrap();
    let failure = get(&url, |_| {}).unwrap_err();
    assert_eq!(failure.kind, Kind::Tls, "{failure}");
}

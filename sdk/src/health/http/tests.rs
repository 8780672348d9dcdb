#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

/// A connection that sends this answer in pieces of `piece` bytes.
struct Wire {
    sent: Vec<u8>,
    answer: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Wire {
    fn new(answer: &[u8], piece: usize) -> Self {
        Self {
            sent: Vec::new(),
            answer: answer.to_vec(),
            at: 0,
            piece,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let rest = &self.answer[self.at..];
        let count = rest.len().min(self.piece).min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn get(answer: &[u8], piece: usize) -> io::Result<(u16, String)> {
    ask("GET", answer, piece)
}

fn ask(method: &str, answer: &[u8], piece: usize) -> io::Result<(u16, String)> {
    let request = Request::new(method, "/").unwrap();
    let mut response = request.send(Wire::new(answer, piece), "a")?;
    let mut body = String::new();
    response.read_to_string(&mut body)?;
    Ok((response.status(), body))
}

#[test]
fn a_request_has_its_default_headers_and_the_given_ones() {
    let sent = |request: Request| {
        let mut wire = Wire::new(b"HTTP/1.1 200 OK\r\n\r\n", 99);
        request.send(&mut wire, "s1:81").unwrap();
        String::from_utf8(wire.sent).unwrap()
    };
    assert_eq!(
        sent(Request::new("GET", "/a?b=c").unwrap()),
        "GET /a?b=c HTTP/1.1\r\nhost: s1:81\r\nuser-agent: waxwing\r\nconnection: close\r\n\r\n"
    );
    let request = Request::new("POST", "/")
        .unwrap()
        .header("Host", "other")
        .unwrap()
        .header("X-Key", "a b")
        .unwrap()
        .body("ping");
    assert_eq!(
        sent(request),
        "POST / HTTP/1.1\r\nuser-agent: waxwing\r\nHost: other\r\nX-Key: a b\r\n\
         content-length: 4\r\nconnection: close\r\n\r\nping"
    );
}

#[test]
fn a_host_names_a_port_that_is_not_the_schemes_default() {
    assert_eq!(host("a.example", 80, 80), "a.example");
    assert_eq!(host("a.example", 80, 443), "a.example:80");
    assert_eq!(host("2001:db8::1", 81, 80), "[2001:db8::1]:81");
}

#[test]
fn invalid_request_parts_are_refused_with_a_remedy() {
    for (method, path, expected) in [
        ("", "/", "is not a method"),
        ("GET /", "/", "is not a method"),
        ("GET", "", "is not a path"),
        ("GET", "healthz", "start it with /"),
        ("GET", "/a b", "percent-encode"),
        ("GET", "/\r\nx: y", "percent-encode"),
        ("GET", "/ä", "percent-encode"),
    ] {
        let error = Request::new(method, path).unwrap_err();
        assert!(error.reason().contains(expected), "{error}");
    }
    for (name, value, expected) in [
        ("a b", "", "not a header name"),
        ("a", "b\r\nc: d", "control character"),
        ("Connection", "keep-alive", "leave it out"),
        ("Content-Length", "7", "leave it out"),
    ] {
        let request = Request::new("GET", "/").unwrap();
        let error = request.header(name, value).unwrap_err();
        assert!(error.reason().contains(expected), "{error}");
    }
}

#[test]
fn a_body_ends_where_its_framing_says_in_pieces_of_any_size() {
    let answers: [(&[u8], u16, &str); 9] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwellmore", 200, "well"),
        (b"HTTP/1.1 200 OK\nContent-Length: 4, 4\n\nwell", 200, "well"),
        (b"HTTP/1.0 404\r\n\r\nto the end", 404, "to the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nwel\r\n001\r\nl\r\n0\r\n",
            200,
            "well",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n0\r\nT: x\r\n\r\n",
            200,
            "",
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n\
              HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            503,
            "",
        ),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, ""),
        (b"HTTP/1.1 304 \r\n\r\n", 304, ""),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n  c\r\nContent-Length: 1\r\n\r\n!", 200, "!"),
    ];
    for (answer, status, body) in answers {
        for piece in 1..=answer.len() {
            let found = get(answer, piece).unwrap();
            assert_eq!(
                found,
                (status, body.to_string()),
                "{}",
                answer.escape_ascii()
            );
        }
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
    assert_eq!(ask("HEAD", head, 7).unwrap(), (200, String::new()));
}

#[test]
fn headers_are_case_insensitive_and_the_reason_phrase_is_kept() {
    let answer = b"HTTP/1.1 503 Too Much\r\nX-Load:  7 \r\nx-load: 8\r\nFolded: a\r\n\tb\r\n\r\n";
    let request = Request::new("GET", "/").unwrap();
    let response = request.send(Wire::new(answer, 9), "a").unwrap();
    assert_eq!(response.reason(), "Too Much");
    assert_eq!(response.header("x-LOAD"), Some("7"));
    assert_eq!(response.header("folded"), Some("a b"));
    assert_eq!(response.header("x"), None);
}

#[test]
fn malformed_and_truncated_responses_are_errors_that_say_why() {
    let answers: [(&[u8], &str); 19] = [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", r#"line: "SSH-2.0-OpenSSH_9""#),
        (b"\x15\x03\x01\x00\x02\x02\x46", r"\x15\x03"),
        (b"HTTP/2 200\r\n\r\n", "not an HTTP/1.1 status line"),
        (b"HTTP/1.1 20\r\n\r\n", "not an HTTP/1.1 status line"),
        (b"HTTP/1.1 2000\r\n\r\n", "not an HTTP/1.1 status line"),
        (b"HTTP/1.1 099 x\r\n\r\n", "not an HTTP/1.1 status line"),
        (b"HTTP/1.1 200 OK\r\n", "within the head"),
        (b"HTTP/1.1 200 OK\r\nA: b", "within the head"),
        (
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            r#"not a header: "no colon""#,
        ),
        (b"HTTP/1.1 200 OK\r\n folded\r\n\r\n", "not a header"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwell",
            "before the end of the body",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
            "not a single number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "not a single number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "only chunked is known",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "not a chunk size",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwe",
            "before the end of the body",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwell\r\n0\r\n",
            "longer than its size",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "not a chunk size",
        ),
    ];
    for (answer, expected) in answers {
        for piece in [1, 2, 5000] {
            let error = get(answer, piece).unwrap_err().to_string();
            assert!(
                error.contains(expected),
                "{}: {error}",
                answer.escape_ascii()
            );
        }
    }
}

#[test]
fn the_head_is_bounded_per_line_and_in_total() {
    let line = [b"HTTP/1.1 200 OK\r\nA: ", &[b'x'; HEAD_BYTES_MAX][..]].concat();
    let many = [
        b"HTTP/1.1 200 OK\r\n",
        &b"A: b\r\n".repeat(HEAD_BYTES_MAX / 6)[..],
    ]
    .concat();
    let interim = b"HTTP/1.1 100 Go on\r\n\r\n".repeat(HEAD_BYTES_MAX / 20);
    for answer in [line, many, interim] {
        let error = get(&answer, 1000).unwrap_err().to_string();
        assert_eq!(error, "the head of the response has more than 16384 bytes");
    }
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
    let chunk = [&chunk[..], &[b'x'; 2000]].concat();
    assert!(get(&chunk, 1000).is_err());
}

#[test]
fn corrupted_responses_parse_or_fail_without_panic() {
    let good = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n\
        3;x\r\nwel\r\n1\r\nl\r\n0\r\n\r\n";
    for seed in 0..4000_usize {
        let random = crate::hash::mix(seed as u64);
        let mut answer = good.to_vec();
        for shift in [0, 16, 32] {
            let [at, to] = u16::to_le_bytes(u16::try_from(random >> shift & 0xffff).unwrap());
            let at = usize::from(at) % answer.len();
            answer[at] = to;
        }
        // Returns in any case.
        let _ = get(&answer, [1, 7, 400][seed % 3]);
        let _ = get(&answer[..seed % answer.len()], 400);
    }
}

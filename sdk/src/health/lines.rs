//! Reads bounded lines from a server, and makes its bytes readable for an operator.
//!
//! Invariant: at most the given number of bytes of a line is held, and a server's bytes enter a
//! text only as printable ASCII.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::io::{self, BufRead, Read};

/// Bytes of an answer that [`quote`] shows.
const QUOTE_MAX: usize = 60;

/// Reads a line of at most `bytes_max` bytes into `line`, without its end (LF or CR LF), and
/// replaces what `line` held. The last line of a stream may lack its end. Returns `false` at the
/// end of the stream.
///
/// # Errors
/// Fails with the reader's error, and with `InvalidData` if the line is longer.
pub fn read_line(
    reader: &mut impl BufRead,
    bytes_max: usize,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    let with_end = bytes_max.saturating_add(2) as u64;
    if reader.by_ref().take(with_end).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    if line.len() > bytes_max {
        return Err(invalid_data(format!(
            "a line has more than {bytes_max} bytes: {}",
            quote(line)
        )));
    }
    Ok(true)
}

/// Returns the start of a server's bytes in quotes, with escapes for all but printable ASCII.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(QUOTE_MAX)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

/// Returns the start of a server's bytes as one line of text, with `?` for all but printable ASCII.
/// For error messages of the server.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    const PRINTABLE_MAX: usize = 200;
    let text: String = bytes
        .iter()
        .take(PRINTABLE_MAX)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            b'\t' | b'\r' | b'\n' => ' ',
            _ => '?',
        })
        .collect();
    text.trim().to_string()
}

/// Returns an error about a server's data.
#[must_use]
pub fn invalid_data(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn lines_end_with_lf_or_crlf_or_the_stream() {
        let mut reader = &b"one\r\n\ntwo\rthree\nfour"[..];
        let mut line = Vec::new();
        for expected in ["one", "", "two\rthree", "four"] {
            assert!(read_line(&mut reader, 9, &mut line).unwrap());
            assert_eq!(line, expected.as_bytes());
        }
        assert!(!read_line(&mut reader, 9, &mut line).unwrap());
    }

    #[test]
    fn a_line_may_have_the_limit_but_no_byte_more() {
        let mut line = Vec::new();
        for end in ["\n", "\r\n", ""] {
            let whole = format!("12345{end}");
            assert!(read_line(&mut whole.as_bytes(), 5, &mut line).unwrap());
            assert_eq!(line, b"12345");
            let over = format!("123456{end}");
            let error = read_line(&mut over.as_bytes(), 5, &mut line).unwrap_err();
            assert!(error.to_string().contains("more than 5 bytes"), "{error}");
        }
        let endless = io::repeat(b'x');
        assert!(read_line(&mut io::BufReader::new(endless), 5, &mut line).is_err());
        assert!(line.len() <= 7);
    }

    #[test]
    fn a_servers_bytes_become_printable_ascii() {
        assert_eq!(quote(b"SSH-2.0\r\n\xff"), r#""SSH-2.0\r\n\xff""#);
        assert_eq!(quote(&[b'x'; 61]), format!("\"{}\"...", "x".repeat(60)));
        assert_eq!(
            printable(b" no\tspace\r\nleft \x1b[0m\xff\n"),
            "no space  left ?[0m?"
        );
        assert_eq!(printable(&[b'x'; 900]).len(), 200);
    }
}

//! Lines from a server, bounded, and its bytes as words for an operator.
//!
//! Invariant: no more of a line is held than the caller allows, and no byte of a server gets into a
//! text but as printable ASCII.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::io::{self, BufRead, Read};

/// As many bytes of an answer as [`quote`] shows.
const QUOTE_MAX: usize = 60;

/// Reads a line of at most `bytes_max` bytes into `line`, which is cleared first, and takes off its
/// end: LF, or CR and LF. The last line of a stream may lack one. `false`: the stream is at its end.
///
/// # Errors
/// The reader's, and `InvalidData` where the line is longer.
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
        return Err(invalid(format!(
            "a line of more than {bytes_max} bytes: {}",
            quote(line)
        )));
    }
    Ok(true)
}

/// The start of what a server sent, in quotes, with escapes for what is not printable ASCII.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(QUOTE_MAX)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

/// The start of what a server sent as text to read: one line, and `?` for what is not printable
/// ASCII. For the words in which a server itself says what is wrong.
#[must_use]
pub fn words(bytes: &[u8]) -> String {
    const WORDS_MAX: usize = 200;
    let text: String = bytes
        .iter()
        .take(WORDS_MAX)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            b'\t' | b'\r' | b'\n' => ' ',
            _ => '?',
        })
        .collect();
    text.trim().to_string()
}

/// An error about what a server sent.
#[must_use]
pub fn invalid(why: impl Into<String>) -> io::Error {
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
    fn a_line_over_the_limit_is_an_error_and_one_at_it_is_not() {
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
    fn what_a_server_sent_is_shown_as_printable_ascii() {
        assert_eq!(quote(b"SSH-2.0\r\n\xff"), r#""SSH-2.0\r\n\xff""#);
        assert_eq!(quote(&[b'x'; 61]), format!("\"{}\"...", "x".repeat(60)));
        assert_eq!(
            words(b" no\tspace\r\nleft \x1b[0m\xff\n"),
            "no space  left ?[0m?"
        );
        assert_eq!(words(&[b'x'; 900]).len(), 200);
    }
}

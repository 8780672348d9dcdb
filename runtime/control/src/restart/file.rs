//! The file's form: a mark, the head's length, the head as JSON, the sessions' records, and the SHA-256 of
//! all that.

use std::io;

use sha2::{Digest as _, Sha256};

use super::head::{Head, VERSION};

const MARK: [u8; 8] = *b"WAXSTATE";
const LEN_LEN: usize = size_of::<u64>();
const SUM_LEN: usize = 32;

/// A state file's parts.
pub(super) struct StateFile {
    pub(super) head: Head,
    /// Each of [`Head::record_len`] bytes.
    pub(super) records: Vec<u8>,
}

impl StateFile {
    /// Passes the file's bytes to `write`, in parts.
    pub(super) fn write(&self, write: impl FnOnce(&[&[u8]]) -> io::Result<()>) -> io::Result<()> {
        let head = serde_json::to_vec(&self.head)?;
        let len = (head.len() as u64).to_be_bytes();
        let parts: [&[u8]; 4] = [&MARK, &len, &head, &self.records];
        let mut sum = Sha256::new();
        parts.iter().for_each(|part| sum.update(part));
        let sum = sum.finalize();
        let [mark, len, head, records] = parts;
        write(&[mark, len, head, records, &sum])
    }

    /// Reads a file's bytes.
    pub(super) fn parse(mut bytes: Vec<u8>) -> io::Result<Self> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let truncated = || refused("it is truncated");
        let sum_at = bytes.len().checked_sub(SUM_LEN).ok_or_else(truncated)?;
        let (content, sum) = bytes.split_at(sum_at);
        let Some(content) = content.strip_prefix(&MARK) else {
            return Err(refused("it is no state of waxwing"));
        };
        if Sha256::digest(&bytes[..sum_at]).as_slice() != sum {
            return Err(refused("its checksum is wrong: it is damaged"));
        }
        let (len, content) = content.split_first_chunk().ok_or_else(truncated)?;
        let len = usize::try_from(u64::from_be_bytes(*len)).map_err(io::Error::other)?;
        let head = content.get(..len).ok_or_else(truncated)?;
        let head: Head = serde_json::from_slice(head)?;
        if head.readable_by > VERSION {
            return Err(refused(
                "a newer version of waxwing wrote it, which this one cannot read",
            ));
        }
        if head.record_len == 0 {
            return Err(refused("it has records without a length"));
        }
        bytes.truncate(sum_at);
        bytes.drain(..MARK.len() + LEN_LEN + len);
        Ok(Self {
            head,
            records: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    fn bytes(file: &StateFile) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.write(|parts| {
            bytes = parts.concat();
            Ok(())
        })
        .unwrap();
        bytes
    }

    /// A file with this head and ten bytes of records, and a right checksum.
    fn with_head(head: &str) -> Vec<u8> {
        let len = (head.len() as u64).to_be_bytes();
        let mut bytes = [&MARK[..], &len, head.as_bytes(), &[7; 10]].concat();
        let sum = Sha256::digest(&bytes);
        bytes.extend(sum);
        bytes
    }

    fn why(bytes: Vec<u8>) -> String {
        StateFile::parse(bytes).err().unwrap().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let head = r#"{"version":1,"readable_by":1,"record_len":5,"written_ms":3,"clock_ms":4}"#;
        let file = StateFile::parse(with_head(head)).unwrap();
        assert_eq!((file.head.record_len, &file.records[..]), (5, &[7; 10][..]));
        assert_eq!(StateFile::parse(bytes(&file)).unwrap().head, file.head);
    }

    #[test]
    fn a_later_versions_fields_are_skipped() {
        let head = r#"{"version":9,"readable_by":1,"record_len":5,"written_ms":3,"clock_ms":4,
            "later":{"a":[1]},"ports":[{"id":1,"name":"eth0","later":2}]}"#;
        let file = StateFile::parse(with_head(head)).unwrap();
        assert_eq!(file.head.ports[0].name, "eth0");
        let head = head.replace(r#""readable_by":1"#, r#""readable_by":2"#);
        assert!(why(with_head(&head)).contains("newer version"));
    }

    #[test]
    fn a_damaged_file_is_refused_with_a_reason() {
        let head = r#"{"version":1,"readable_by":1,"record_len":5,"written_ms":3,"clock_ms":4}"#;
        let good = with_head(head);
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            let why = why(damaged);
            assert!(
                why.contains("damaged") || why.contains("no state"),
                "{at}: {why}"
            );
            assert!(StateFile::parse(good[..at].to_vec()).is_err());
        }
        assert!(why(with_head("{}")).contains("missing field"));
        assert!(why(with_head(&head.replace(":5", ":0"))).contains("length"));
        let mut long = good;
        long[MARK.len()] = 0x7f;
        let sum_at = long.len() - SUM_LEN;
        long.truncate(sum_at);
        let sum = Sha256::digest(&long);
        long.extend(sum);
        assert_eq!(why(long), "it is truncated");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(content in vec(any::<u8>(), 0..200), marked in any::<bool>()) {
            let mut bytes = content.clone();
            if marked {
                bytes = [&MARK[..], &content].concat();
                let sum = Sha256::digest(&bytes);
                bytes.extend(sum);
            }
            let _ = StateFile::parse(bytes);
            let _ = StateFile::parse(with_head(&String::from_utf8_lossy(&content)));
        }
    }
}

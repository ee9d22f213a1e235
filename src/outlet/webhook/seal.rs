//! Secrets at rest: AES-256-GCM under one key, each text bound to the row that it stands in.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// First byte of every sealed text, so that another scheme can come later.
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;

/// Seals and unseals.
pub(super) struct Sealer {
    key: RandomizedNonceKey,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0} must hold 32 bytes as base64")]
    NotAKey(String),
    #[error("sealing key file {path}: {cause}")]
    File { path: String, cause: std::io::Error },
}

impl Sealer {
    /// Reads base64 of 32 bytes; `named` says where the text comes from.
    pub(super) fn parse(text: &str, named: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text.trim()).ok().filter(|bytes| bytes.len() == KEY_BYTES);
        let key = bytes.and_then(|bytes| RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok());
        key.map(|key| Self { key }).ok_or_else(|| KeyError::NotAKey(named.to_owned()))
    }

    /// Reads the key from a file; nothing if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, KeyError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &format!("sealing key file {}", path.display())).map(Some),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(KeyError::File { path: path.display().to_string(), cause }),
        }
    }

    /// Makes a key and a file for it that only its owner can read. Durable when it returns.
    pub(super) fn create(path: &Path) -> Result<Self, KeyError> {
        let text = STANDARD.encode(crate::runtime::random_bytes::<KEY_BYTES>());
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.sync_all()
        });
        written.map_err(|cause| KeyError::File { path: path.display().to_string(), cause })?;
        Self::parse(&text, "the new key")
    }

    /// Seals a text for the row with this id.
    pub(super) fn seal(&self, text: &str, id: &str) -> Vec<u8> {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(id.as_bytes()), &mut sealed)
            .expect("a short text can always be sealed");
        [&[VERSION], nonce.as_ref().as_slice(), &sealed].concat()
    }

    /// The text, if it was sealed with this key for this row and nobody changed it.
    pub(super) fn unseal(&self, sealed: &[u8], id: &str) -> Option<String> {
        let (nonce, rest) = sealed.strip_prefix(&[VERSION])?.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let text = self.key.open_in_place(nonce, Aad::from(id.as_bytes()), &mut rest).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::parse(&STANDARD.encode([byte; KEY_BYTES]), "key").expect("a key")
    }

    #[test]
    fn only_the_same_key_and_row_unseal() {
        let sealed = sealer(1).seal("whsec_x", "row");
        assert_eq!(sealer(1).unseal(&sealed, "row").as_deref(), Some("whsec_x"));
        assert_ne!(sealed, sealer(1).seal("whsec_x", "row"), "a nonce is used once");
        assert!(!sealed.windows(5).any(|part| part == b"whsec"));
        let mut changed = sealed.clone();
        *changed.last_mut().expect("a tag") ^= 1;
        for (key, sealed, id) in
            [(2, &sealed, "row"), (1, &sealed, "other"), (1, &changed, "row"), (1, &vec![1; 5], "row")]
        {
            assert!(sealer(key).unseal(sealed, id).is_none());
        }
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("postern.key");
        assert!(Sealer::read(&path).expect("no file is no error").is_none());
        let sealed = Sealer::create(&path).expect("created").seal("x", "row");
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(Sealer::read(&path).expect("readable").expect("there").unseal(&sealed, "row").as_deref(), Some("x"));
        assert!(Sealer::create(&path).is_err());
        std::fs::write(&path, "short").expect("written");
        assert!(matches!(Sealer::read(&path), Err(KeyError::NotAKey(_))));
    }
}

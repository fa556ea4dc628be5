//! Adapters as llama.cpp's `convert_lora_to_gguf.py` writes them.

use super::Gguf;
use super::header::Header;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;

impl Gguf {
    /// As [`parse`](Self::parse), for a low-rank adapter.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); [`Error::Unsupported`] for a file that is not an adapter, or one of another kind.
    pub fn parse_adapter(content: FileBytes, file: &str) -> Result<Self> {
        const KEY: &str = "adapter.type";
        let header = Header::read(&content, file, "adapter")?;
        let gguf = Self { file: file.into(), content, header };
        match gguf.string(KEY)?.ok_or_else(|| gguf.missing(KEY))? {
            "lora" => Ok(gguf),
            other => Err(Error::Unsupported {
                what: format!("the adapter `{file}` of type `{}`", super::reader::shown(other.as_bytes())),
                reason: "`lora` is what is read".into(),
                hint: None,
            }),
        }
    }

    /// What an adapter's factors are scaled by, times their rank; 0 stands for factors without a scale.
    ///
    /// # Errors
    /// [`Error::BadField`] where the file does not say.
    pub fn lora_alpha(&self) -> Result<f64> {
        const KEY: &str = "adapter.lora.alpha";
        self.number(KEY)?.ok_or_else(|| self.missing(KEY))
    }
}

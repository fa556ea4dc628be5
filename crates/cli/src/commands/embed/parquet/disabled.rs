//! A build without the feature: it says so.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Result;
use tandem::Error;
use tandem::remedy::Remedy;

use crate::commands::embed::row_file::{Layout, RowFile};

/// There are none.
pub(in crate::commands::embed) enum ParquetTexts {}

/// Says which feature is missing.
pub(in crate::commands::embed) fn check_feature() -> Result<()> {
    Err(Error::Unsupported {
        what: "Parquet".into(),
        reason: "it is not part of this build".into(),
        hint: Some([Remedy::EnableFeature("parquet".into()), "convert the file to `.jsonl` or `.csv`".into()].into()),
    }
    .into())
}

pub(in crate::commands::embed) fn open_output(_: &Path, _: Layout, _: bool) -> io::Result<Box<dyn RowFile>> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl ParquetTexts {
    pub(in crate::commands::embed) fn open(_: File, _: String, _: &str, _: u64) -> Result<Self> {
        check_feature()?;
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    pub(in crate::commands::embed) fn next(&mut self) -> Result<Option<String>> {
        match *self {}
    }

    pub(in crate::commands::embed) fn row(&self) -> u64 {
        match *self {}
    }

    pub(in crate::commands::embed) fn share(&self) -> f64 {
        match *self {}
    }
}

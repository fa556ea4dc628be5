//! Texts of Parquet files, and vectors in them: the one place that knows of the feature `parquet`.

#[cfg(not(feature = "parquet"))]
mod disabled;
#[cfg(feature = "parquet")]
mod output;
#[cfg(feature = "parquet")]
mod schema;
#[cfg(feature = "parquet")]
mod texts;

#[cfg(not(feature = "parquet"))]
pub(super) use self::disabled::{ParquetTexts, check_feature, open_output};
#[cfg(feature = "parquet")]
pub(super) use self::output::open_output;
#[cfg(feature = "parquet")]
pub(super) use self::texts::{ParquetTexts, check_feature};

//! Models of the hub: the cache, whether its contents are right, and whether the hub answers.

use std::time::Duration;

use anyhow::Result;
use tandem::hub::{Damage, Fault, Hub, HubSettings};
use tandem::{CancelToken, Progress};

use super::{Check, State};
use crate::figures::bytes;

const AREA: &str = "models";

/// How long the hub may take to answer before it counts as out of reach: whoever asks a doctor does not wait long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to look at beyond what is quick.
pub(super) struct Thoroughly<'p> {
    /// Read every file of the cache, and compare it with its hash.
    pub(super) verify: bool,
    /// Bring again what is damaged.
    pub(super) repair: bool,
    pub(super) progress: &'p Progress,
}

pub(super) fn checks(thoroughly: &Thoroughly<'_>) -> Vec<Check> {
    let settings = match HubSettings::from_env() {
        Ok(settings) => settings,
        Err(error) => return vec![Check::bad(AREA, "hub", error.into())],
    };
    let mut checks = vec![cache(&Hub::new(settings.clone()))];
    if thoroughly.verify {
        checks.extend(contents(&Hub::new(settings.clone()), thoroughly));
    }
    checks.push(hub(settings));
    checks
}

/// What is in the cache, and what is missing from it or did not come whole.
fn cache(hub: &Hub) -> Check {
    let models = hub.cache().models();
    let (n, size) = (models.len(), models.iter().map(|model| model.bytes).sum::<u64>());
    let finding = format!("{n} in {}, {}", hub.cache().root().display(), bytes(size));
    let missing = models.iter().flat_map(|model| &model.snapshots).map(|snapshot| snapshot.missing.len()).sum::<usize>();
    let partial: u64 = models.iter().map(|model| model.partial_bytes).sum();
    if missing > 0 {
        return Check::new(AREA, "cache", State::Warning, format!("{finding}; {missing} files are linked to and not there"))
            .with_remedy("`tandem doctor --verify` names them, `--repair` brings them again");
    }
    if partial > 0 {
        return Check::new(
            AREA,
            "cache",
            State::Warning,
            format!("{finding}, of it {} of downloads that are not whole", bytes(partial)),
        )
        .with_remedy("`tandem pull MODEL` goes on where it ended, `tandem rm MODEL` removes it");
    }
    Check::good(AREA, "cache", finding)
}

/// Every content against its hash.
fn contents(hub: &Hub, thoroughly: &Thoroughly<'_>) -> Vec<Check> {
    match hub.verify(None, thoroughly.progress, &CancelToken::new()) {
        Ok(damages) if damages.is_empty() => vec![Check::good(AREA, "contents", "every file is what its hash says")],
        Ok(damages) => damages.iter().map(|damage| damaged(hub, damage, thoroughly)).collect(),
        Err(error) => vec![Check::bad(AREA, "contents", error.into())],
    }
}

fn damaged(hub: &Hub, damage: &Damage, thoroughly: &Thoroughly<'_>) -> Check {
    let fault = match damage.fault {
        Fault::Content => "has another content than its hash says",
        Fault::Size => "has another size than it must have",
        Fault::Missing => "is not there",
    };
    let finding = format!("`{}` of {} {fault}", damage.file, damage.repository);
    let repaired = |finding: &str| -> Result<Check> {
        hub.repair(damage, thoroughly.progress, &CancelToken::new())?;
        Ok(Check::good(AREA, "contents", format!("{finding}, and was brought again")))
    };
    match thoroughly.repair {
        true => repaired(&finding).unwrap_or_else(|error| Check::bad(AREA, "contents", error.context(finding))),
        false => {
            Check::new(AREA, "contents", State::Bad, finding).with_remedy("`tandem doctor --verify --repair` brings it again")
        }
    }
}

/// Whether the hub answers; offline nobody asks it.
fn hub(settings: HubSettings) -> Check {
    let endpoint = settings.shown_endpoint();
    if settings.offline {
        return Check::new(AREA, "hub", State::Absent, "`HF_HUB_OFFLINE` says to open no socket; models in the cache are used")
            .with_remedy("unset `HF_HUB_OFFLINE` to download");
    }
    let asked = Hub::new(HubSettings { attempts: 1, silence: PATIENCE, ..settings }).reach(&CancelToken::new());
    match asked {
        Ok(()) => Check::good(AREA, "hub", format!("{endpoint} answers")),
        // Models that are here run all the same.
        Err(error) => {
            let bad = Check::bad(AREA, "hub", error.into());
            let remedy = bad.remedy.clone().unwrap_or_default();
            let remedy = format!(
                "{remedy}{}set `HF_HUB_OFFLINE=1` to work with what is in the cache",
                if remedy.is_empty() { "" } else { "; " }
            );
            Check { state: State::Warning, remedy: Some(remedy), ..bad }
        }
    }
}

//! What a machine did while something was measured: how busy others kept it, what a hypervisor took, whether it was throttled.
//!
//! Sources: proc_stat(5) and proc_pid_stat(5), `cpu.stat` of cgroups(7), and the kernel's `thermal_throttle` counters. Where the system
//! has none of them, the figure is absent.

use serde::{Deserialize, Serialize};
use sysinfo::System;

/// Counters of the system at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    load: f64,
    ticks: Option<Ticks>,
    throttled: Option<u64>,
}

/// Ticks of all processors since the system started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ticks {
    all: u64,
    busy: u64,
    stolen: u64,
    /// Those of this process and of its children that have ended.
    own: u64,
}

/// How a machine was between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Processes that ran or waited to run, over the minute before.
    pub load_before: f64,
    /// The same over the minute before the end, the measured process included.
    pub load_after: f64,
    /// The share, 0 to 1, of all processors' time that other programs used.
    pub others_share: Option<f64>,
    /// The share that a hypervisor gave to somebody else.
    pub stolen_share: Option<f64>,
    /// How often the processor or the control group was slowed down.
    pub n_throttled: Option<u64>,
}

impl Activity {
    /// The counters now.
    pub fn now() -> Self {
        Self { load: System::load_average().one, ticks: ticks(), throttled: throttled() }
    }

    /// What happened since.
    pub fn until_now(&self) -> Conditions {
        let now = Self::now();
        let shares = self.ticks.zip(now.ticks).and_then(|(before, after)| shares(before, after));
        Conditions {
            load_before: self.load,
            load_after: now.load,
            others_share: shares.map(|(others, _)| others),
            stolen_share: shares.map(|(_, stolen)| stolen),
            n_throttled: self.throttled.zip(now.throttled).map(|(before, after)| after.saturating_sub(before)),
        }
    }
}

/// The shares of others and of what was stolen; `None` when no time has passed.
fn shares(before: Ticks, after: Ticks) -> Option<(f64, f64)> {
    let of = |tick: fn(Ticks) -> u64| tick(after).saturating_sub(tick(before)) as f64;
    let all = of(|ticks| ticks.all);
    (all > 0.0).then(|| ((of(|ticks| ticks.busy) - of(|ticks| ticks.own)).max(0.0) / all, of(|ticks| ticks.stolen) / all))
}

fn ticks() -> Option<Ticks> {
    let of_all = std::fs::read_to_string("/proc/stat").ok()?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    parse(of_all.lines().next()?, &own)
}

/// From the line `cpu  user nice system idle iowait irq softirq steal …` and a process's own line.
fn parse(of_all: &str, own: &str) -> Option<Ticks> {
    let numbers: Vec<u64> = of_all.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, waiting, interrupts, soft, stolen, ..] = numbers[..] else { return None };
    let busy = user + nice + system + interrupts + soft;
    // After the name, which may hold spaces and brackets, the state is field 3 and utime, stime, cutime, cstime are 14 to 17.
    let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
    let own = fields.get(11..15)?.iter().map_while(|field| field.parse::<u64>().ok()).sum();
    Some(Ticks { all: busy + idle + waiting + stolen, busy, stolen, own })
}

/// Slow-downs for heat on any processor, and those of the control group.
fn throttled() -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let of_group = std::fs::read_to_string("/sys/fs/cgroup/cpu.stat").ok();
    let of_group = of_group.and_then(|text| text.lines().find_map(|line| number(line.strip_prefix("nr_throttled ")?)));
    let of_heat: Vec<u64> = std::fs::read_dir("/sys/devices/system/cpu")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("thermal_throttle/core_throttle_count")).ok())
        .filter_map(|text| number(&text))
        .collect();
    let counters: Vec<u64> = of_group.into_iter().chain(of_heat).collect();
    (!counters.is_empty()).then(|| counters.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_processors() {
        let own = |utime: u64| format!("7 (a (b) c) R 1 7 7 0 -1 4194304 100 0 0 0 {utime} 5 20 5 20 0 3 0 100 1 2");
        let before = parse("cpu  100 0 50 800 10 0 5 5 0 0", &own(10)).unwrap();
        assert_eq!(before, Ticks { all: 970, busy: 155, stolen: 5, own: 40 });
        let after = parse("cpu  220 0 50 860 10 0 5 25 0 0", &own(90)).unwrap();
        let (others, stolen) = shares(before, after).unwrap();
        assert!((others - 0.2).abs() < 1e-9 && (stolen - 0.1).abs() < 1e-9, "{others} {stolen}");
        assert_eq!(shares(before, before), None);
        assert_eq!(parse("cpu 1 2", &own(0)), None);
    }

    #[test]
    fn own_threads_do_not_count_as_other_programs() {
        let before = Activity::now();
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 60 {
            std::hint::black_box(started);
        }
        let conditions = before.until_now();
        assert!(conditions.others_share.is_none_or(|share| (0.0..=1.0).contains(&share)), "{conditions:?}");
    }
}

//! Processor, memory, disk.

use std::path::Path;

use tandem::machine::{Memory, Processor, free_disk};
use tandem::plan::{Candidate, Choice};
use tandem::{Resolver, Settings, paths};

use super::{Check, State};
use crate::config::Config;
use crate::figures::bytes;

const AREA: &str = "machine";

/// Room that the smallest models need, in bytes.
const LITTLE_DISK: u64 = 2_000_000_000;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let (processor, memory) = (Processor::read(), Memory::read());
    let mut checks = vec![instructions(&processor), threads(&processor), memory_check(&memory)];
    checks.extend(limits(&memory));
    let settings = Settings { backend: config.engine.weights.backend, ..Settings::default() };
    let resolver = Resolver::new(config.catalog.clone()).with_memory(memory);
    let speed = resolver.bandwidth(&settings);
    checks.push(Check::good(AREA, "bandwidth", format!("memory is read at {} per second", bytes(speed as u64))));
    let choice = resolver.choose(&settings).ok();
    checks.push(auto(choice.as_ref()));
    let places = [("disk of the cache", paths::cache_dir()), ("disk of the state", paths::state_dir())];
    checks.extend(places.into_iter().filter_map(|(name, place)| Some(disk(name, &place?))));
    checks.extend(choice.iter().flat_map(models));
    checks
}

fn instructions(processor: &Processor) -> Check {
    let has = |name: &str| processor.features.contains(&name);
    let finding = format!("{}: {}", processor.architecture, processor.features.join(", "));
    if processor.architecture == "x86_64" && !(has("avx2") && has("fma")) {
        return Check::new(AREA, "processor", State::Warning, format!("{finding}; without AVX2 all models are slow"))
            .with_remedy("in a virtual machine, let it have the host's processor (`-cpu host`)");
    }
    Check::good(AREA, "processor", finding)
}

fn threads(processor: &Processor) -> Check {
    let (threads, cores) = (processor.threads, processor.cores.unwrap_or(processor.threads));
    let finding = format!("{threads} for this process, {cores} cores");
    if threads < cores {
        return Check::new(AREA, "threads", State::Warning, format!("{finding}: affinity or a control group keeps the others"))
            .with_remedy("give the container more processors, or lift `taskset`");
    }
    Check::good(AREA, "threads", finding)
}

fn memory_check(memory: &Memory) -> Check {
    let finding = format!("{} free of {}", bytes(memory.available), bytes(memory.total));
    Check::good(AREA, "memory", finding)
}

/// Limits of the control group and of the address space, where there are any.
fn limits(memory: &Memory) -> Vec<Check> {
    let group = memory.control_group.as_ref().map(|group| {
        let finding = format!("{} left of {} ({})", bytes(group.left()), bytes(group.limit), group.file.display());
        Check::new(AREA, "control group", State::Warning, finding)
            .with_remedy("a model that needs more is refused: raise the limit (`docker run --memory`, `MemoryMax=`)")
    });
    let space = memory.address_space.map(|space| {
        let finding = format!("{} left of {}", bytes(space.left()), bytes(space.limit));
        Check::new(AREA, "address space", State::Warning, finding)
            .with_remedy("a model that needs more is refused: `ulimit -v unlimited` lifts the limit")
    });
    group.into_iter().chain(space).collect()
}

/// What `auto` would take here.
fn auto(choice: Option<&Choice>) -> Check {
    match choice.and_then(Choice::chosen) {
        None => Check::new(AREA, "`auto`", State::Warning, "no model of the catalog fits the memory that is free")
            .with_remedy("`demo` runs anyway; close other programs, or see `tandem show auto --memory SIZE`"),
        Some(chosen) => Check::good(AREA, "`auto`", format!("`{}`: {}", chosen.entry.name, estimate(chosen))),
    }
}

/// The models of the catalog, the largest first.
fn models(choice: &Choice) -> impl Iterator<Item = Check> {
    choice.candidates.iter().map(|candidate| {
        let fits = if candidate.estimate.fits { "" } else { "; more than is free" };
        Check::good("catalog", &candidate.entry.name, format!("{}{fits}", estimate(candidate)))
    })
}

fn estimate(Candidate { estimate, .. }: &Candidate) -> String {
    let (peak, speed) = (bytes(estimate.plan.peak()), estimate.tokens_per_second);
    format!("in {} about {peak}, {speed:.0} tokens/s", estimate.dtype())
}

fn disk(name: &str, place: &Path) -> Check {
    match free_disk(place) {
        Ok(free) if free < LITTLE_DISK => {
            Check::new(AREA, name, State::Warning, format!("{} free at {}", bytes(free), place.display()))
                .with_remedy("remove what is not needed, or set `TANDEM_CACHE` and `HF_HOME` to a larger disk")
        }
        Ok(free) => Check::good(AREA, name, format!("{} free at {}", bytes(free), place.display())),
        Err(error) => Check::bad(AREA, name, error.into()),
    }
}

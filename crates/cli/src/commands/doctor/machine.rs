//! Processor, memory, disk.

use std::path::Path;

use tandem::machine::{Memory, Processor, free_disk};
use tandem::{DType, LoadOptions, Resolver, Settings, paths};

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
    checks.push(auto(config, &memory));
    let places = [("disk of the cache", paths::cache_dir()), ("disk of the state", paths::state_dir())];
    checks.extend(places.into_iter().filter_map(|(name, place)| Some(disk(name, &place?))));
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
fn auto(config: &Config, memory: &Memory) -> Check {
    let resolver = Resolver::new(config.catalog.clone()).with_memory(memory.clone());
    let largest = |dtype: DType| {
        let load = LoadOptions::new().with_dtype(dtype);
        let choice = resolver.choose(&Settings { backend: config.engine.weights.backend, load, ..Settings::default() }).ok()?;
        choice.taken().map(|taken| format!("`{}` in {dtype}", taken.entry.name))
    };
    let found: Vec<String> = [DType::F32, DType::Int4].into_iter().filter_map(largest).collect();
    match found.as_slice() {
        [] => Check::new(AREA, "largest model", State::Warning, "no model of the catalog fits the memory that is free")
            .with_remedy("`demo` runs anyway; close other programs, or see `tandem show auto --memory SIZE`"),
        found => Check::good(AREA, "largest model", format!("{} fits the memory that is free", found.join(", "))),
    }
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

//! `tandem bench`: how fast a model runs here, and what each backend and dtype costs.

mod facts;
mod lineup;
mod worker;
mod workload;

use std::iter::successors;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use tandem::{CancelToken, Error, Resolver, Settings};
use tandem_bench::record::{Record, SCHEMA};
use tandem_bench::report::{Change, changes, disturbances, page, text, unjudged};
use tandem_bench::run::{Step, run};
use tandem_bench::shape::plan_shape;

use crate::args::BenchArgs;
use crate::args::ReportOptions;
use crate::engine::find_adapters;
use crate::failure::{FAILED, GATE_NOT_MET, Usage};
use crate::figures;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::resolve::{find, resolve_checkpoint};

pub(crate) fn bench(args: BenchArgs, output: &Output) -> Result<ExitCode> {
    if args.worker {
        return worker::work();
    }
    let baseline = args.report.baseline.as_deref().map(Record::read).transpose()?;
    if !args.report.report.is_empty() {
        let mut records = args.report.report.iter().map(|path| Record::read(path));
        let mut record = records.next().context("at least one file is given")??;
        records.try_for_each(|other| record.merge(other?))?;
        let saved = args.report.file.as_ref().map_or(Ok(()), |file| record.write(file));
        return finish(&record, baseline.as_ref(), &args.report, saved.map_err(Into::into), output);
    }
    let mut args = args;
    if let Some(model) = &mut args.model {
        let (resolver, resolved) = resolve_checkpoint(model, output)?;
        // Measuring begins when it is here: the workers find it in the cache.
        find(&resolver, &resolved, &Settings { as_published: true, ..Settings::default() }, output)?;
        *model = resolved.model.to_string();
    }
    // A wrong name is said before anything is measured.
    let named = Settings { adapters: args.entries.adapter.clone(), ..Settings::default() };
    let found = find_adapters(&Resolver::from_env()?, named, output)?.adapters;
    found.iter().try_for_each(|adapter| adapter.files().map(drop))?;
    let cancel = CancelToken::new();
    let interrupts = Interrupts::install(cancel.clone()).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let reference = reference(&args, &cancel, output)?;
    let (record, measured) = measure(&args, &reference, &cancel, output)?;
    interrupts.disarm();
    finish(&record, baseline.as_ref(), &args.report, measured, output)
}

/// The model: the one that is named, or one of random weights, which is made when it is not there.
fn reference(args: &BenchArgs, cancel: &CancelToken, output: &Output) -> Result<String> {
    let Some(shape) = &args.shape else {
        return args.model.clone().context("a model or a shape is given");
    };
    let plan = plan_shape(shape, &cache_dir()?)?;
    if !plan.is_there() {
        let free = plan.free_bytes.map(|free| format!(", {} are free", figures::bytes(free))).unwrap_or_default();
        output.note(&format!(
            "making {shape}: {} random weights, {}{free}, in {}",
            figures::many(plan.n_parameters),
            figures::bytes(plan.bytes),
            plan.directory.display()
        ));
        let progress = output.progress(format!("making {shape}"));
        plan.make(&mut |written| progress.say(format!("making {shape}: {}%", written * 100 / plan.bytes.max(1))), cancel)?;
    }
    Ok(plan.directory.display().to_string())
}

/// Measures; what came of it is in the record even when it ended early.
fn measure(args: &BenchArgs, reference: &str, cancel: &CancelToken, output: &Output) -> Result<(Record, Result<()>)> {
    let progress = output.progress(format!("reading {reference}"));
    let files = tandem::find(reference)?;
    let facts = facts::Facts::read(&files, args, cancel, &progress)?;
    let lineup = lineup::lineup(args, reference, &files, &facts)?;
    if let Some(left_out) = facts.left_out(args) {
        output.note(&left_out);
    }
    let mut record = facts.into_record(reference, args)?;
    if let Some(shape) = &args.shape {
        record.model.reference = format!("{shape} (random weights)");
    }
    let file = saved_to(&args.report)?;
    let mut saved = Ok(());
    let (n, started) = (record.workload.rounds, Instant::now());
    let result = run(&mut record, lineup, cancel, &mut |record, step| match step {
        Step::Preparing(name) => progress.say(format!("preparing {name}")),
        Step::Turn { name, round } => progress.say(format!("round {} of {n}: {name}", round + 1)),
        Step::Failed { name, reason } => output.note(&format!("{name} failed: {reason}")),
        Step::RoundDone(_) => {
            let result = record.write(&file);
            if let (Ok(()), Err(error)) = (&saved, &result) {
                let reasons = successors(Some(error as &dyn std::error::Error), |error| error.source());
                let reasons: Vec<String> = reasons.map(ToString::to_string).collect();
                output.note(&format!("the samples cannot be saved: {}; the benchmark continues", reasons.join(": ")));
            }
            saved = result;
        }
    });
    drop(progress);
    output.detail(&format!("measured in {:.0} s; every sample is in {}", started.elapsed().as_secs_f64(), file.display()));
    Ok((record, result.and(saved).map_err(Into::into)))
}

/// Where models of random weights, exports and samples are kept.
fn cache_dir() -> Result<PathBuf> {
    tandem::paths::cache_dir().context("there is no cache directory: `TANDEM_CACHE`, `XDG_CACHE_HOME` and `HOME` are not set")
}

/// Where samples are kept.
fn saved_to(options: &ReportOptions) -> Result<PathBuf> {
    options.file.clone().map_or_else(|| Ok(cache_dir()?.join("bench").join("last.json")), Ok)
}

/// Prints and writes the report, whatever went wrong before, and then says what went wrong.
fn finish(
    record: &Record,
    baseline: Option<&Record>,
    options: &ReportOptions,
    measured: Result<()>,
    output: &Output,
) -> Result<ExitCode> {
    debug_assert_eq!(record.schema, SCHEMA);
    let compared: Result<Vec<Change>, Error> = baseline.map_or(Ok(Vec::new()), |baseline| changes(record, baseline));
    let found = compared.as_deref().unwrap_or_default();
    if record.measured().next().is_some() {
        if output.is_json() && measured.is_ok() && compared.is_ok() {
            output.document(&facts::document(record, found))?;
        } else if !output.is_json() {
            text(record, found).iter().try_for_each(|line| output.line(&output.for_stdout(line)))?;
        }
        if let Some(html) = &options.html {
            tandem_bench::record::write_whole(html, page(record, found).render().as_bytes())?;
            output.note(&format!("report: {}", html.display()));
        }
    }
    measured?;
    if let (Some(baseline), true) = (baseline, options.gate) {
        let disturbances = disturbances(record, baseline);
        if !disturbances.is_empty() {
            compared?;
            output.note(&format!(
                "gate failed: a disturbed run cannot be judged; measure again while nothing else runs: {}",
                disturbances.join("; ")
            ));
            return Ok(ExitCode::from(FAILED));
        }
        let losses: Vec<String> = compared?
            .iter()
            .filter(|change| change.fails_gate())
            .map(|change| format!("{}, {}", change.name, change.metric))
            .collect();
        if !losses.is_empty() {
            output.note(&format!("gate failed: {} took 10% more than in the baseline, or worse", losses.join("; ")));
            return Ok(ExitCode::from(GATE_NOT_MET));
        }
        let unjudged = unjudged(record, baseline);
        if !unjudged.is_empty() {
            output.note(&format!("gate failed: it cannot judge {}", unjudged.join("; ")));
            return Ok(ExitCode::from(FAILED));
        }
    } else {
        compared?;
    }
    let failed: Vec<&str> = record.entries.iter().filter(|one| one.failure.is_some()).map(|one| one.name.as_str()).collect();
    if !failed.is_empty() {
        output.note(&format!("these entries failed: {}", failed.join("; ")));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// A list without repetitions, in its order, of values that are at least `least`.
fn distinct(option: &str, values: &[usize], least: usize) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for &value in values {
        if value < least {
            return Err(Usage::new(format!("option `{option}`: `{value}` is less than {least}"), "give a larger number").into());
        }
        if !found.contains(&value) {
            found.push(value);
        }
    }
    Ok(found)
}

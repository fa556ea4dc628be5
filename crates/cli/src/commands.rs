//! One module for each command.

mod adapter;
mod bench;
mod chat;
mod completions;
mod devices;
mod doctor;
mod embed;
mod export;
mod fingerprint;
mod list;
mod parity;
mod pull;
mod rerank;
mod rm;
mod run;
mod score;
mod setup;
mod show;
mod verify_index;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Command;
use crate::output::Output;

pub(crate) fn run(command: Command, output: &Output) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args, output),
        Command::Chat(args) => chat::chat(args, output),
        Command::Embed(args) => embed::embed(args, output),
        Command::Rerank(args) => rerank::rerank(args, output),
        Command::Fingerprint(args) => fingerprint::fingerprint(args, output),
        Command::VerifyIndex(args) => verify_index::verify_index(args, output),
        Command::Bench(args) => bench::bench(*args, output),
        Command::Score(args) => score::score(args, output),
        Command::Show(args) => show::show(args, output),
        Command::Adapter(args) => adapter::adapter(args, output),
        Command::Export(args) => export::export(args, output),
        Command::Parity(args) => parity::parity(args, output),
        Command::Pull(args) => pull::pull(args, output),
        Command::List(args) => list::list(&args, output),
        Command::Rm(args) => rm::rm(&args, output),
        Command::Devices(args) => devices::devices(args, output),
        Command::Doctor(args) => doctor::doctor(args, output),
        Command::Setup(args) => setup::setup(args, output),
        Command::Completions(args) => completions::completions(&args, output),
    }
}

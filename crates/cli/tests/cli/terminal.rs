//! The binary on a terminal of 80 columns.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Exit code and all that was shown, with plain line ends.
pub(crate) fn on_terminal(mut command: Command) -> (Option<i32>, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.stdin(program.try_clone().unwrap()).stdout(program.try_clone().unwrap()).stderr(program);
    let mut child = command.spawn().unwrap();
    // The command holds the program's end as well, and the terminal is not at its end before that is closed.
    drop(command);
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    let mut terminal = File::from(terminal);
    // It fails when nobody has the other end any more.
    while let Ok(n @ 1..) = terminal.read(&mut piece) {
        shown.extend_from_slice(&piece[..n]);
    }
    let code = child.wait().unwrap().code();
    (code, String::from_utf8(shown).unwrap().replace("\r\n", "\n"))
}

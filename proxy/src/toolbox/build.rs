//! `tamis filter build`: a project's own `make`, with word of what takes long.
//!
//! Control plane. What make and its tools print goes where it always goes; how long they take is said beside it.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How often the build is looked at; short beside what a person notices.
const LOOK: Duration = Duration::from_millis(20);
/// The first line about time; each further one comes after twice as long.
const FIRST_WORD: Duration = Duration::from_secs(1);

pub fn run(folder: &Path) -> Result<(), String> {
    if !folder.join("Makefile").is_file() {
        return Err(format!(
            "{}: holds no Makefile; `tamis filter new` writes one",
            folder.display()
        ));
    }
    // The one that is running, which need not be on the PATH.
    let tamis = std::env::current_exe().map_err(|error| format!("where Tamis is cannot be found out: {error}"))?;
    let since = Instant::now();
    let child = Command::new("make")
        .arg("--no-print-directory")
        .arg(format!("TAMIS={}", tamis.display()))
        .current_dir(folder)
        .spawn()
        .map_err(|error| {
            format!(
                "make cannot be started: {error}; install it, or do what {}/Makefile says",
                folder.display()
            )
        })?;
    let status = wait(child, since).map_err(|error| format!("make: {error}"))?;
    match status.success() {
        true => {
            crate::tell_line!("build: done in {:.1} s", since.elapsed().as_secs_f64());
            Ok(())
        }
        false => Err(format!("make failed ({status}); its last lines say why")),
    }
}

fn wait(mut child: Child, since: Instant) -> std::io::Result<ExitStatus> {
    let mut word = FIRST_WORD;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if since.elapsed() >= word {
            eprintln!("build: running for {} s", word.as_secs());
            word *= 2;
        }
        std::thread::sleep(LOOK);
    }
}

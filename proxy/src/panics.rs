//! Panics: there should be none, and one is the end of what it happened in, and of nothing else.
//!
//! Every plane. A panic unwinds its task; what the task held is given back as it is dropped. Here they are counted, so that
//! one is found however little came of it. Builds with debug assertions, as tests use them, can be made to panic at a
//! place; others have no trace of it.

use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The variable that names the file for [`point`].
#[cfg(debug_assertions)]
const POINT_FILE: &str = "TAMIS_PANIC_FILE";

/// From now on each panic is counted, besides being told on standard error.
pub fn count_all() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        tell(panic);
    }));
}

/// How many there were since the start.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Panics once when a file says so that a test has named: by the name of the place alone.
#[cfg(debug_assertions)]
pub fn point(place: &str) {
    static FILE: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os(POINT_FILE).map(Into::into)) else {
        return;
    };
    let is_meant = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == place);
    // Whoever takes the file away is the one.
    if is_meant && std::fs::remove_file(file).is_ok() {
        panic!("a test wants one: {place}");
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str) {}

//! What the service manager is told, where there is one: systemd's notification protocol.
//!
//! Control plane. Without `NOTIFY_SOCKET` nothing is said; what cannot be said costs a line in the log and nothing
//! else.

use sd_notify::NotifyState;

/// The process serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Another process takes this one's place: it is the one to follow from now on.
pub fn follow(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The process ends, and nobody takes its place.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

//! What systemd is told.

use sd_notify::NotifyState;

/// Tells systemd, where it has started the server.
pub(crate) fn supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify the supervisor: {error}");
    }
}

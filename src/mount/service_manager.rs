//! Tells systemd how the mount is (sd_notify(3)): ready, what a stop is waiting for, stopping.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names; the protocol is a few lines of text and a stable interface. Nobody listening is no error: a
//! mount must not depend on who started it.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// How much longer a stop may take than the unit's `TimeoutStopSec`, told again with every step of a drain.
const LONGER: Duration = Duration::from_secs(30);

/// The one who wants to be told, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager(Option<UnixDatagram>);

impl ServiceManager {
    /// The manager at `socket`: a path, or `@name` for an abstract one.
    pub(super) fn at(socket: Option<&OsString>) -> Self {
        Self(socket.and_then(|socket| match connect(socket) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "the service manager does not listen");
                None
            }
        }))
    }

    /// The mount works.
    pub(super) fn ready(&self, what: &str) {
        self.tell(&format!("READY=1\nSTATUS={what}"));
    }

    /// It is being stopped.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=sending what is not in COS yet");
    }

    /// The stop goes on: so many bytes are still to be sent.
    pub(super) fn draining(&self, bytes: u64) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={bytes} bytes to send", LONGER.as_micros()));
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("cosmount-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ];
        for (theirs, name) in sockets {
            let manager = ServiceManager::at(Some(&name));
            manager.ready("b-125");
            manager.draining(7);
            let mut text = [0; 100];
            let length = theirs.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1\nSTATUS=b-125");
            let length = theirs.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=7 bytes to send");
        }
    }

    #[test]
    fn nobody_listening_is_no_error() {
        ServiceManager::at(None).ready("b-125");
        ServiceManager::at(Some(&"/nowhere/at/all".into())).ready("b-125");
    }
}

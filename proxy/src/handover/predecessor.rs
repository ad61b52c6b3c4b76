//! The running process as its successor sees it: what it gives, and when it may be relieved.
//!
//! Lives from the start of a process that was started to take another one's place until it serves.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, MAX_BYTES};
use super::{Answer, Offer, PROTOCOL, Place, VARIABLE};
use crate::address::Address;
use crate::listener::Sockets;
use crate::snapshot::Listener;

/// For the predecessor's next words: it answers at once, or has ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Reasons are for people; with its frame and escapes it stays within a message.
const MAX_REASON: usize = MAX_BYTES / 8;

pub struct Predecessor {
    channel: Channel,
}

/// What it gave.
#[derive(Default)]
pub struct Estate {
    listeners: HashMap<(String, Address), Vec<OwnedFd>>,
    admin: HashMap<Address, Vec<OwnedFd>>,
    /// Of the state folder; held by both processes at once.
    pub lock: Option<File>,
    /// Where `tamis upgrade` asks.
    pub control: Option<OwnedFd>,
}

impl Predecessor {
    /// The process whose place this one was started to take, and what it gives; `None` at an ordinary start.
    pub fn find() -> Result<Option<(Self, Estate)>, String> {
        let Some(spoken) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        let cannot = |error: io::Error| format!("{VARIABLE} is set, and no process hands over: {error}; unset it");
        let channel = Self::channel().map_err(cannot)?;
        let predecessor = Self { channel };
        let hello = Answer::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        predecessor.say(&hello)?;
        if spoken.to_str() != Some(PROTOCOL.to_string().as_str()) {
            return Err(format!(
                "the running process hands over in another way than this version knows, {PROTOCOL}; restart it instead"
            ));
        }
        let estate = predecessor.receive_estate()?;
        Ok(Some((predecessor, estate)))
    }

    /// Leaves an ordinary standard input behind, so that nobody reads the channel by accident.
    fn channel() -> io::Result<Channel> {
        let channel = Channel::new(io::stdin().as_fd().try_clone_to_owned()?)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let (theirs, ours) = (channel.peer_user()?, rustix::process::geteuid().as_raw());
        if theirs != ours {
            return Err(io::Error::other(format!("the other side is user {theirs}, not {ours}")));
        }
        Ok(channel)
    }

    fn receive_estate(&self) -> Result<Estate, String> {
        let mut estate = Estate::default();
        loop {
            let (offer, mut descriptors) = self.hear()?;
            match offer {
                Offer::Sockets { place } => estate.add(place, descriptors)?,
                Offer::Lock => estate.lock = descriptors.pop().map(File::from),
                Offer::Control => estate.control = descriptors.pop(),
                Offer::All => return Ok(estate),
                Offer::Serve => return Err("the running process said more than was asked of it".into()),
            }
        }
    }

    /// Everything is loaded, and what `taken` names is listened on from now on. Returns when the predecessor wants to
    /// be relieved; until then, nothing may be accepted.
    pub fn prepared(&self, taken: &Taken) -> Result<(), String> {
        for place in &taken.0 {
            self.say(&Answer::Taken { place: place.clone() })?;
        }
        self.say(&Answer::Prepared)?;
        match self.hear()? {
            (Offer::Serve, _) => Ok(()),
            (other, _) => Err(format!(
                "the running process said {other:?} where it should have given way"
            )),
        }
    }

    /// Every worker accepts.
    pub fn serving(&self) -> Result<(), String> {
        self.say(&Answer::Serving)
    }

    /// Says why this process ends instead.
    pub fn refuse(&self, reason: &str) {
        let message = reason.chars().take(MAX_REASON).collect();
        // It hears of the end in any case.
        let _ = self.say(&Answer::Refused { message });
    }

    fn say(&self, answer: &Answer) -> Result<(), String> {
        self.channel.send(answer, &[]).map_err(gone)
    }

    fn hear(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        self.channel.receive(ANSWER_TIMEOUT).map_err(gone)
    }
}

fn gone(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => "the running process ended before it handed over".into(),
        _ => format!("the running process cannot be spoken with: {error}"),
    }
}

/// Which of the sockets that came have found their place in this process.
#[derive(Default)]
pub struct Taken(Vec<Place>);

impl Estate {
    fn add(&mut self, place: Place, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        match place {
            Place::Listener { name, address } => {
                let of_place = self.listeners.entry((name, address.parse()?)).or_default();
                of_place.extend(descriptors);
            }
            Place::Admin { address } => self.admin.entry(address.parse()?).or_default().extend(descriptors),
        }
        Ok(())
    }

    /// The listeners' sockets, for so many workers, by [`socket_key`](crate::assemble::socket_key).
    pub fn listeners(&mut self, workers: usize) -> Result<HashMap<(String, Address), Arc<Sockets>>, String> {
        let adopt = |((name, address), descriptors): ((String, Address), Vec<OwnedFd>)| {
            let sockets = Sockets::adopt(address.clone(), descriptors, workers).map_err(|error| error.to_string())?;
            Ok(((name, address), Arc::new(sockets)))
        };
        self.listeners.drain().map(adopt).collect()
    }

    /// The admin endpoint's sockets, if they are at this address.
    pub fn admin(&mut self, address: &Address) -> Result<Option<Sockets>, String> {
        let adopt = |descriptors| Sockets::adopt(address.clone(), descriptors, 1).map_err(|error| error.to_string());
        self.admin.remove(address).map(adopt).transpose()
    }
}

impl Taken {
    /// Of a generation's listeners those that have the sockets `given`.
    pub fn note_listeners(&mut self, given: &HashMap<(String, Address), Arc<Sockets>>, listeners: &[Listener]) {
        for ((name, address), sockets) in given {
            if listeners.iter().any(|listener| listener.sockets.id() == sockets.id()) {
                let (name, address) = (name.clone(), address.to_string());
                self.0.push(Place::Listener { name, address });
            }
        }
    }

    pub fn note_admin(&mut self, address: &Address) {
        let address = address.to_string();
        self.0.push(Place::Admin { address });
    }
}
